/* A minimal C-STORE SCU that is never the bottleneck. Compiled and called by sender.py.
 *
 *   sender PORT CALLED_AE_TITLE ASSOCIATIONS FIRST_TAG REPEATS LONGEST_PDU TIMES_FILE < LIST
 *
 * LIST names one prepared instance per line:
 *   PATH OFFSET LENGTH HEAD SOP_CLASS_UID SOP_INSTANCE_UID SOP_TAG SERIES_TAG
 * OFFSET and LENGTH are those of the data set in the file; HEAD is how much of it comes before the pixels. SOP_TAG and
 * SERIES_TAG are where, in the data set, the last four digits of the two UIDs stand: every repeat writes its own number
 * there, so that each instance is sent once under each UID.
 *
 * All associations are negotiated before the clock starts. Each sends its consecutive share of the list, one instance at a
 * time: sendmsg() from the mapped file, in PDUs of what the receiver announced (at most LONGEST_PDU), then the response.
 * TIMES_FILE gets two doubles per instance, seconds since the clock started: begun and answered. Prints one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define STORE_CONTEXT 1
#define MOST_IOVECS 512
#define TAG_DIGITS 4

typedef struct {
    char sop_class[65], sop_instance[65];
    const uint8_t *data;
    size_t length, head, sop_tag, series_tag;
} Instance;

typedef struct {
    int socket;
    size_t first, count;       /* of the list */
    size_t announced;          /* maximum length the receiver said; 0: any */
    size_t stored, failed;
    unsigned last_failure;
    uint64_t bytes;
    double *times;             /* two per instance and repeat */
    double ended;
    pthread_t thread;
} Association;

static Instance *list;
static size_t n_list, repeats, first_tag, longest_pdu;
static const char *called;
static int port;
static pthread_barrier_t ready;
static double epoch;

static void die(const char *what)
{
    fprintf(stderr, "sender: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void put16(uint8_t *at, unsigned value) { at[0] = value >> 8; at[1] = value; }
static void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16); put16(at + 2, value & 0xFFFF); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }
static void le16(uint8_t *at, unsigned value) { at[0] = value; at[1] = value >> 8; }
static void le32(uint8_t *at, uint32_t value) { le16(at, value & 0xFFFF); le16(at + 2, value >> 16); }

static void send_parts(int socket, struct iovec *parts, size_t n)
{
    while (n) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = n};
        ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            die("sendmsg");
        }
        while (n && (size_t)sent >= parts->iov_len) { sent -= parts->iov_len; parts++; n--; }
        if (n) { parts->iov_base = (uint8_t *)parts->iov_base + sent; parts->iov_len -= sent; }
    }
}

static void send_all(int socket, const void *bytes, size_t size)
{
    struct iovec part = {(void *)bytes, size};
    send_parts(socket, &part, 1);
}

static void receive(int socket, void *into, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(socket, (uint8_t *)into + got, size - got, 0);
        if (n == 0) { fprintf(stderr, "sender: the receiver closed the connection\n"); exit(1); }
        if (n < 0) { if (errno == EINTR) continue; die("recv"); }
        got += n;
    }
}

/* The body of the next PDU, in `body` of `room` bytes; its type is returned, its length in *length. */
static int receive_pdu(int socket, uint8_t *body, size_t room, size_t *length)
{
    uint8_t header[6];
    receive(socket, header, 6);
    *length = get32(header + 2);
    if (*length > room) { fprintf(stderr, "sender: a PDU of %zu bytes\n", *length); exit(1); }
    receive(socket, body, *length);
    return header[0];
}

static size_t item(uint8_t *at, int type, const void *value, size_t size)
{
    at[0] = type; at[1] = 0; put16(at + 2, size);
    memcpy(at + 4, value, size);
    return size + 4;
}

static void negotiate(Association *assoc)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    assoc->socket = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(assoc->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(assoc->socket, (struct sockaddr *)&address, sizeof address)) die("connect");

    uint8_t pdu[4096] = {0}, context[256] = {STORE_CONTEXT, 0, 0, 0}, user[256], *at = pdu + 6;
    static const char application[] = "1.2.840.10008.3.1.1.1", little[] = "1.2.840.10008.1.2.1", implementation[] = "2.25.1";
    put16(at, 1);
    memset(at + 4, ' ', 32);
    memcpy(at + 4, called, strlen(called));
    memcpy(at + 20, "BENCH", 5);
    at += 68;
    at += item(at, 0x10, application, sizeof application - 1);
    const char *sop_class = list[assoc->first].sop_class;
    size_t size = 4;
    size += item(context + size, 0x30, sop_class, strlen(sop_class));
    size += item(context + size, 0x40, little, sizeof little - 1);
    at += item(at, 0x20, context, size);
    uint8_t most[4];
    put32(most, 16384);
    size = item(user, 0x51, most, 4);
    size += item(user + size, 0x52, implementation, sizeof implementation - 1);
    at += item(at, 0x50, user, size);
    pdu[0] = 1;
    put32(pdu + 2, at - pdu - 6);
    send_all(assoc->socket, pdu, at - pdu);

    size_t length;
    int type = receive_pdu(assoc->socket, pdu, sizeof pdu, &length), accepted = 0;
    if (type != 2) { fprintf(stderr, "sender: association refused, PDU type %d\n", type); exit(1); }
    for (size_t offset = 68; offset + 4 <= length;) {
        size_t item_length = pdu[offset + 2] << 8 | pdu[offset + 3];
        if (pdu[offset] == 0x21 && pdu[offset + 4] == STORE_CONTEXT) accepted = pdu[offset + 6] == 0;
        if (pdu[offset] == 0x50)
            for (size_t sub = offset + 4; sub + 4 <= offset + 4 + item_length; sub += 4 + (pdu[sub + 2] << 8 | pdu[sub + 3]))
                if (pdu[sub] == 0x51) assoc->announced = get32(pdu + sub + 4);
        offset += 4 + item_length;
    }
    if (!accepted) { fprintf(stderr, "sender: presentation context refused\n"); exit(1); }
}

static size_t element(uint8_t *at, unsigned number, const void *value, size_t size)
{
    le16(at, 0); le16(at + 2, number); le32(at + 4, size);
    memcpy(at + 8, value, size);
    return size + 8;
}

static size_t uid_element(uint8_t *at, unsigned number, const char *uid)
{
    char padded[66] = {0};
    size_t size = strlen(uid);
    memcpy(padded, uid, size);
    return element(at, number, padded, size + (size & 1));
}

/* A C-STORE-RQ as one P-DATA-TF. */
static size_t command_pdu(uint8_t *pdu, const char *sop_class, const char *sop_instance, unsigned message_id)
{
    uint8_t *set = pdu + 12, value[4];
    size_t size = 12;
    size += uid_element(set + size, 0x0002, sop_class);
    le16(value, 0x0001); size += element(set + size, 0x0100, value, 2);
    le16(value, message_id); size += element(set + size, 0x0110, value, 2);
    le16(value, 0); size += element(set + size, 0x0700, value, 2);
    le16(value, 0x0001); size += element(set + size, 0x0800, value, 2);
    size += uid_element(set + size, 0x1000, sop_instance);
    le32(value, size - 12);
    element(set, 0x0000, value, 4);
    pdu[0] = 4; pdu[1] = 0; put32(pdu + 2, size + 6); put32(pdu + 6, size + 2);
    pdu[10] = STORE_CONTEXT; pdu[11] = 3;
    return size + 12;
}

/* Status (0000,0900) of the C-STORE-RSP that comes next. */
static unsigned receive_status(int socket)
{
    uint8_t body[16384], command[16384];
    size_t length, size = 0;
    for (int last = 0; !last;) {
        int type = receive_pdu(socket, body, sizeof body, &length);
        if (type != 4) { fprintf(stderr, "sender: PDU of type %d instead of a response\n", type); exit(1); }
        for (size_t at = 0; at + 6 <= length;) {
            size_t fragment = get32(body + at) - 2;
            if (at + 6 + fragment > length || size + fragment > sizeof command) { fprintf(stderr, "sender: bad response\n"); exit(1); }
            memcpy(command + size, body + at + 6, fragment);
            size += fragment;
            last = body[at + 5] & 2;
            at += 6 + fragment;
        }
    }
    for (size_t at = 0; at + 8 <= size;) {
        unsigned number = command[at + 2] | command[at + 3] << 8;
        if (number == 0x0900) return command[at + 8] | command[at + 9] << 8;
        at += 8 + (command[at + 4] | command[at + 5] << 8 | command[at + 6] << 16 | (size_t)command[at + 7] << 24);
    }
    return 0xFFFF;
}

static void send_dataset(Association *assoc, const Instance *instance, uint8_t *head, uint8_t *headers, struct iovec *parts)
{
    size_t most = assoc->announced && assoc->announced < longest_pdu ? assoc->announced : longest_pdu, n = 0;
    size_t fragment = (most - 6) & ~(size_t)1;
    for (size_t offset = 0; offset < instance->length; headers += 12) {
        size_t size = instance->length - offset < fragment ? instance->length - offset : fragment;
        headers[0] = 4; headers[1] = 0; put32(headers + 2, size + 6); put32(headers + 6, size + 2);
        headers[10] = STORE_CONTEXT; headers[11] = offset + size == instance->length ? 2 : 0;
        parts[n++] = (struct iovec){headers, 12};
        size_t of_head = offset >= instance->head ? 0 : instance->head - offset < size ? instance->head - offset : size;
        if (of_head) parts[n++] = (struct iovec){head + offset, of_head};
        if (size > of_head) parts[n++] = (struct iovec){(void *)(instance->data + offset + of_head), size - of_head};
        offset += size;
        if (n > MOST_IOVECS - 3 || offset == instance->length) { send_parts(assoc->socket, parts, n); n = 0; }
    }
}

static void *run(void *argument)
{
    Association *assoc = argument;
    size_t largest = 0, largest_head = 0, n = 0;
    for (size_t i = assoc->first; i < assoc->first + assoc->count; i++) {
        if (list[i].length > largest) largest = list[i].length;
        if (list[i].head > largest_head) largest_head = list[i].head;
    }
    negotiate(assoc);
    uint8_t *headers = malloc(12 * (largest / 4000 + 2)), *head = malloc(largest_head), command[512];
    struct iovec *parts = malloc(sizeof *parts * MOST_IOVECS);
    pthread_barrier_wait(&ready); /* all are negotiated */
    pthread_barrier_wait(&ready); /* the clock runs */
    for (size_t repeat = 0; repeat < repeats; repeat++) {
        char tag[TAG_DIGITS + 1];
        snprintf(tag, sizeof tag, "%04zu", (first_tag + repeat) % 10000);
        for (size_t i = assoc->first; i < assoc->first + assoc->count; i++, n++) {
            Instance *instance = list + i;
            char sop_instance[65];
            strcpy(sop_instance, instance->sop_instance);
            memcpy(sop_instance + strlen(sop_instance) - TAG_DIGITS, tag, TAG_DIGITS);
            memcpy(head, instance->data, instance->head);
            memcpy(head + instance->sop_tag, tag, TAG_DIGITS);
            memcpy(head + instance->series_tag, tag, TAG_DIGITS);
            assoc->times[2 * n] = now() - epoch;
            send_all(assoc->socket, command, command_pdu(command, instance->sop_class, sop_instance, n & 0xFFFF));
            send_dataset(assoc, instance, head, headers, parts);
            unsigned status = receive_status(assoc->socket);
            assoc->times[2 * n + 1] = now() - epoch;
            if (status == 0) assoc->stored++;
            else { assoc->failed++; assoc->last_failure = status; }
            assoc->bytes += instance->length;
        }
    }
    assoc->ended = now() - epoch;
    uint8_t release[10] = {5, 0, 0, 0, 0, 4}, body[64];
    size_t length;
    send_all(assoc->socket, release, sizeof release);
    receive_pdu(assoc->socket, body, sizeof body, &length);
    close(assoc->socket);
    return NULL;
}

static void read_list(void)
{
    char path[4096];
    size_t offset, room = 0;
    Instance one;
    while (scanf("%4095s %zu %zu %zu %64s %64s %zu %zu", path, &offset, &one.length, &one.head, one.sop_class,
                 one.sop_instance, &one.sop_tag, &one.series_tag) == 8) {
        int file = open(path, O_RDONLY);
        if (file < 0) die(path);
        uint8_t *map = mmap(NULL, offset + one.length, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
        if (map == MAP_FAILED) die("mmap");
        close(file);
        one.data = map + offset;
        if (n_list == room) list = realloc(list, sizeof *list * (room = 2 * room + 64));
        list[n_list++] = one;
    }
}

int main(int count, char **words)
{
    if (count != 8) { fprintf(stderr, "sender: see sender.c\n"); return 2; }
    port = atoi(words[1]); called = words[2];
    size_t n = strtoul(words[3], NULL, 10);
    first_tag = strtoul(words[4], NULL, 10); repeats = strtoul(words[5], NULL, 10); longest_pdu = strtoul(words[6], NULL, 10);
    read_list();
    if (!n || n > n_list || strlen(called) > 16 || longest_pdu < 4096) { fprintf(stderr, "sender: see sender.c\n"); return 2; }

    Association *associations = calloc(n, sizeof *associations);
    pthread_barrier_init(&ready, NULL, n + 1);
    for (size_t i = 0; i < n; i++) {
        Association *assoc = associations + i;
        assoc->first = n_list * i / n;
        assoc->count = n_list * (i + 1) / n - assoc->first;
        assoc->times = calloc(2 * assoc->count * repeats, sizeof(double));
        memset(assoc->times, 1, 2 * assoc->count * repeats * sizeof(double));
        if (pthread_create(&assoc->thread, NULL, run, assoc)) die("pthread_create");
    }
    struct rusage before, after;
    pthread_barrier_wait(&ready);
    getrusage(RUSAGE_SELF, &before);
    epoch = now();
    pthread_barrier_wait(&ready);
    size_t stored = 0, failed = 0, announced = 0;
    unsigned last_failure = 0;
    uint64_t bytes = 0;
    double ended = 0;
    for (size_t i = 0; i < n; i++) {
        Association *assoc = associations + i;
        pthread_join(assoc->thread, NULL);
        stored += assoc->stored; failed += assoc->failed; bytes += assoc->bytes; announced = assoc->announced;
        if (assoc->failed) last_failure = assoc->last_failure;
        if (assoc->ended > ended) ended = assoc->ended;
    }
    getrusage(RUSAGE_SELF, &after);
    double cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec)
               + 1e-6 * (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    FILE *times = fopen(words[7], "wb");
    if (!times) die(words[7]);
    for (size_t i = 0; i < n; i++) fwrite(associations[i].times, sizeof(double), 2 * associations[i].count * repeats, times);
    if (fclose(times)) die(words[7]);
    printf("{\"stored\": %zu, \"failed\": %zu, \"last_failure\": %u, \"bytes\": %llu, \"seconds\": %.6f, \"cpu_s\": %.6f, \"announced_pdu_bytes\": %zu}\n",
           stored, failed, last_failure, (unsigned long long)bytes, ended, cpu, announced);
    return 0;
}
