"""Messages as e-mail (RFC 5322), handed over by SMTP (RFC 5321) with STARTTLS (RFC 3207). Called by `watch`."""

from __future__ import annotations

import smtplib
import ssl
from datetime import UTC
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

import structlog

from iap_node.config.notifications import EmailConfig
from iap_node.config.secret import read_secret
from iap_node.notify.message import Message, NotTold

SUBJECT_CHARACTERS = 200

log = structlog.get_logger("notify")


class EmailChannel:
    """Sends to all recipients, each message over a connection of its own."""

    name = "email"

    def __init__(self, config: EmailConfig) -> None:
        self._config = config

    def send(self, message: Message) -> None:
        """Hand a message over to the server.

        Raises
        ------
        NotTold
            The server was not there, or refused; also when it refused all recipients.
        ConfigError
            The file with the password cannot be used.
        """
        config = self._config
        password = None if config.password_file is None else read_secret(
            config.password_file, "notifications.email.password_file"
        )
        try:
            with self._connected() as server:
                if config.user is not None and password is not None:
                    server.login(config.user, password)
                refused = server.send_message(as_email(message, config))
        except smtplib.SMTPAuthenticationError as error:  # its text may repeat what we said
            raise NotTold(f"{config.host} refuses user and password (code {error.smtp_code})") from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotTold(f"no e-mail by {config.host}:{config.port}: {_said(error)}") from error
        if refused:  # the others have it: to try again would tell them again
            log.warning("recipients refused; check notifications.email.recipients", recipients=sorted(refused))

    def _connected(self) -> smtplib.SMTP:
        config = self._config
        context = ssl.create_default_context(cafile=config.ca)
        if config.security == "tls":
            return smtplib.SMTP_SSL(config.host, config.port, timeout=config.timeout_s, context=context)
        server = smtplib.SMTP(config.host, config.port, timeout=config.timeout_s)
        if config.security == "starttls":
            try:
                server.starttls(context=context)  # a server without it is an error, never plain text
            except (smtplib.SMTPException, OSError):
                server.close()
                raise
        return server


def as_email(message: Message, config: EmailConfig) -> EmailMessage:
    """A message as it is sent: plain text, marked as written by a machine (RFC 3834)."""
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())[:SUBJECT_CHARACTERS]
    mail["From"] = config.sender
    mail["To"] = ", ".join(config.recipients)
    mail["Date"] = format_datetime(message.at.astimezone(UTC))
    mail["Message-ID"] = make_msgid(domain=config.sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"
    lines = [message.summary, "", message.remedy]
    if message.series_instance_uids:
        lines += ["", "Series Instance UIDs, some:", *message.series_instance_uids]
    if message.console_url is not None:
        lines += ["", message.console_url]
    mail.set_content("\n".join(lines) + "\n")
    return mail


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answers {error.smtp_code}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "it refuses all recipients; check notifications.email.recipients"
    return str(error) or type(error).__name__
