// Files are sent a few at a time, so that progress is seen and no request is large.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector("[data-upload]");
  const drop = box?.querySelector("[data-drop]");
  if (!drop) return;
  const bar = box.querySelector("progress");
  const says = box.querySelector("[data-says]");
  const refused = box.querySelector("[data-refused]");
  const FILES = 20;
  const BYTES = 64 * 1024 * 1024;
  let running = Promise.resolve();

  function send(files) {
    running = running.then(() => sendAll([...files]));
  }

  async function sendAll(files) {
    const counts = {};
    let done = 0;
    bar.hidden = false;
    while (done < files.length) {
      const form = new FormData();
      let bytes = 0;
      let n = 0;
      while (done + n < files.length && n < FILES && (n === 0 || bytes + files[done + n].size <= BYTES)) {
        bytes += files[done + n].size;
        form.append("files", files[done + n], files[done + n].name);
        n += 1;
      }
      const answer = await fetch(box.dataset.upload, {
        method: "POST",
        body: form,
        headers: { "X-CSRF-Token": box.dataset.csrf, Accept: "application/json" },
      });
      if (!answer.ok) {
        says.textContent = `stopped after ${done} of ${files.length} files: ${answer.status} ${answer.statusText}`;
        return;
      }
      const found = await answer.json();
      for (const [outcome, number] of Object.entries(found.counts)) counts[outcome] = (counts[outcome] ?? 0) + number;
      for (const one of found.refused) {
        const line = document.createElement("li");
        line.textContent = `${one.name}: ${one.reason}`;
        refused.append(line);
      }
      done += n;
      bar.value = done / files.length;
      const parts = Object.entries(counts).filter(([, number]) => number > 0);
      says.textContent = `${done} of ${files.length}: ${parts.map(([name, number]) => `${number} ${name.replaceAll("_", " ")}`).join(", ")}`;
    }
  }

  async function entries(item) {
    if (item.isFile) return [await new Promise((resolve, reject) => item.file(resolve, reject))];
    const reader = item.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) return found;
      for (const one of some) found.push(...(await entries(one)));
    }
  }

  for (const input of box.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => send(input.files));
  }
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") box.querySelector("[data-folder]").click();
  });
  drop.addEventListener("click", () => box.querySelector("[data-folder]").click());
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    const items = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const files = (await Promise.all(items.map(entries))).flat();
    send(files);
  });
});
