"""The e-mail channel and a person, with mail-devel between them."""

import email
import email.policy
import imaplib
import json
import os
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from email.message import EmailMessage

sys.path.insert(0, "tests/peers")

from free_port import free_port

PASSWORD = "pw"
SUPPORT, ADA = "support@example.org", "ada@example.org"
checks = 0


def is_true(fact, *shown):
    global checks
    checks += 1
    if not fact:
        raise SystemExit(f"check {checks} failed: {shown}")


class Server:
    """mail-devel on this machine; with a folder for its certificate, with TLS."""

    def __init__(self, folder=None, smtp=None):
        self.imap, self.smtp, self.smtps = free_port(), smtp or free_port(), free_port()
        command = [sys.executable, "-m", "mail_devel", "--host", "127.0.0.1", "--user", ADA, "--password", PASSWORD,
                   "--multi-user", "--no-http", "--imap-port", str(self.imap), "--smtp-port", str(self.smtp),
                   "--smtps-port", str(self.smtps)]
        if folder:
            command += ["--cert", f"{folder}/server.pem", "--key", f"{folder}/server.key"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for port in [self.imap, self.smtp] + ([self.smtps] if folder else []):
            self.wait_for(port)

    def wait_for(self, port):
        until = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                if self.process.poll() is not None or until < time.monotonic():
                    self.log.seek(0)
                    raise SystemExit(f"mail-devel does not start: {self.log.read().decode()[-2000:]}")
                time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Before:
    """Stands before a server, and sees who comes and goes."""

    def __init__(self, port):
        self.behind, self.came, self.gone = port, 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            caller, _ = self.listener.accept()
            threading.Thread(target=self.lead, args=(caller, self.came), daemon=True).start()
            self.came += 1

    def welcome(self, caller):
        return caller

    def lead(self, caller, visit):
        try:
            caller = self.welcome(caller)
        except OSError:
            return
        behind = socket.create_connection(("127.0.0.1", self.behind))
        back = threading.Thread(target=self.pass_on, args=(behind, caller), daemon=True)
        back.start()
        self.pass_on(caller, behind)
        back.join()
        self.gone.append(visit)

    @staticmethod
    def pass_on(one, other):
        try:
            while piece := one.recv(65536):
                other.sendall(piece)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def wait_for_a_visit(self):
        """Somebody comes from now on, and goes."""
        came, until = self.came, time.monotonic() + 120
        while not any(came <= visit for visit in self.gone):
            if until < time.monotonic():
                raise SystemExit("nobody comes")
            time.sleep(0.1)


class TlsBefore(Before):
    """TLS before a server that has none: mail-devel's IMAP."""

    def __init__(self, folder, port):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
        super().__init__(port)

    def welcome(self, caller):
        return self.context.wrap_socket(caller, server_side=True)


class Channel:
    """Our side."""

    def __init__(self, program, environment=None):
        pipe = subprocess.PIPE
        environment = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen([program], stdin=pipe, stdout=pipe, text=True, env=environment)
        self.cursor, self.heard = None, 0

    def ask(self, settings, password=PASSWORD, **call):
        secrets = {"smtp_password": [password], "imap_password": [password]}
        line = {"settings": settings, "secrets": secrets, **call}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        is_true(answer, "the channel ended")
        return json.loads(answer)

    def fetch(self, settings):
        answer = self.ask(settings, op="fetch", cursor=self.cursor)
        is_true("events" in answer, answer)
        self.cursor = answer["cursor"]
        self.heard += len(answer["events"])
        return answer["events"]

    def answer(self, settings, text, event=None):
        event = self.heard - 1 if event is None else event
        return self.ask(settings, op="answer", event=event, text=text)


def settings_of(server, **more):
    return {"address": SUPPORT, "name": "Shop", "smtp_host": "127.0.0.1", "smtp_port": server.smtp,
            "smtp_security": "plain", "imap_host": "127.0.0.1", "imap_port": server.imap,
            "imap_security": "plain", **more}


def send(server, subject, body, sender=ADA, **headers):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = f"Ada <{sender}>", SUPPORT, subject
    mail["Message-ID"] = f"<{time.time_ns()}@example.org>"
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content(body)
    with smtplib.SMTP("127.0.0.1", server.smtp) as smtp:
        smtp.send_message(mail)
    return mail


def mails_of(server, who):
    with imaplib.IMAP4("127.0.0.1", server.imap) as imap:
        imap.login(who, PASSWORD)
        imap.select("INBOX", readonly=True)
        numbers = imap.search(None, "ALL")[1][0].split()
        whole = [imap.fetch(number, "(BODY.PEEK[])")[1][0][1] for number in numbers]
    return [email.message_from_bytes(mail, policy=email.policy.default) for mail in whole]


def talk(program):
    server = Server()
    channel, settings = Channel(program), settings_of(server)

    # Settings can be tried before they are kept: each fault by its server.
    is_true(channel.ask(settings, op="probe") == {"faults": []})
    faults = channel.ask({**settings, "imap_folder": "Nowhere", "smtp_port": free_port()}, op="probe")["faults"]
    is_true(len(faults) == 2 and "SMTP" in faults[0] and "Nowhere" in faults[1], faults)

    # What lay there before the channel was connected is not answered.
    send(server, "old", "long ago")
    is_true(channel.fetch(settings) == [])
    is_true(channel.fetch(settings) == [])

    asked = send(server, "😀 Order 17", "Where is it? مرحبا\n")
    events = channel.fetch(settings)
    is_true([event["what"] for event in events] == ["message"], events)
    is_true(events[0]["words"] == "😀 Order 17\n\nWhere is it? مرحبا", events)
    is_true(events[0]["sender"] == {"external_id": ADA, "name": "Ada"}, events)
    is_true(channel.fetch(settings) == [])

    sent = channel.answer(settings, "It **left** today. 😀\n\n- by *train*")
    is_true(sent["outcome"].startswith("Sent"), sent)
    reply = mails_of(server, ADA)[-1]
    is_true(reply["In-Reply-To"] == asked["Message-ID"], reply.items())
    is_true(reply["References"] == asked["Message-ID"], reply.items())
    is_true(reply["Message-ID"] == sent["message_id"], reply.items())
    is_true(reply["Subject"] == "Re: 😀 Order 17", reply["Subject"])
    is_true(reply["Auto-Submitted"] == "auto-replied", reply.items())
    is_true("mailto:" + SUPPORT in reply["List-Unsubscribe"], reply.items())
    plain = reply.get_body(("plain",)).get_content()
    is_true("It left today. 😀" in plain and "**" not in plain, plain)
    is_true("<strong>left</strong>" in reply.get_body(("html",)).get_content())

    # The person goes on in the thread, with our words beneath theirs.
    quoted = "".join(f"> {line}\n" for line in plain.splitlines())
    send(server, "Re: 😀 Order 17", f"Thanks!\n\nOn Sat, 28 Nov 2026, Shop <{SUPPORT}> wrote:\n{quoted}",
         In_Reply_To=sent["message_id"], References=f"{asked['Message-ID']} {sent['message_id']}")
    second = channel.fetch(settings)
    is_true([event["words"] for event in second] == ["Thanks!"], second)
    is_true(second[0]["thread"] == events[0]["thread"], second)
    again = channel.answer(settings, "You are welcome.")
    is_true(again["outcome"].startswith("Sent"), again)
    is_true(mails_of(server, ADA)[-1]["References"].split()[0] == asked["Message-ID"])

    # Somebody else who knows the thread's id is in a conversation of their own.
    send(server, "Re: 😀 Order 17", "And mine?", sender="eve@example.org", References=asked["Message-ID"])
    is_true(channel.fetch(settings)[0]["thread"] != events[0]["thread"])

    # Machines are heard and not answered; words that end it, end it.
    send(server, "Out of office", "I am away.", Auto_Submitted="auto-replied")
    send(server, "News", "Buy!", Precedence="bulk")
    send(server, "Re: 😀 Order 17", "unsubscribe", References=asked["Message-ID"])
    whats = [(event["what"], event["words"]) for event in channel.fetch(settings)]
    is_true(whats == [("unknown", "auto_submitted"), ("unknown", "bulk"), ("unreachable", "")], whats)

    # A mail of our own that comes back is not answered either.
    send(server, "echo", "echo", sender=SUPPORT)
    is_true(channel.fetch(settings)[0]["words"] == "own_mail")

    # More than one fetch takes: the rest comes with the next, in order.
    for number in range(25):
        send(server, f"n{number}", "x")
    first, rest = channel.fetch(settings), channel.fetch(settings)
    words = [event["words"].split("\n")[0] for event in first + rest]
    is_true((len(first), len(rest)) == (20, 5) and words == [f"n{number}" for number in range(25)], words)

    # The mailbox looks as it did: nothing is marked as read by being fetched.
    with imaplib.IMAP4("127.0.0.1", server.imap) as imap:
        imap.login(SUPPORT, PASSWORD)
        imap.select("INBOX", readonly=True)
        is_true(imap.search(None, "SEEN")[1][0] == b"")

    refused = channel.ask({**settings, "imap_user": "nobody@example.org", "imap_port": free_port()}, op="fetch")
    is_true("no connection" in refused["error"], refused)
    server.stop()


def with_tls(program):
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(folder)
        server = Server(folder)
        trusting = Channel(program, {"SSL_CERT_FILE": f"{folder}/ca.pem"})
        before = TlsBefore(folder, server.imap)
        settings = settings_of(server, smtp_host="localhost", imap_host="localhost", imap_port=before.port,
                               imap_security="tls")
        is_true(trusting.fetch(settings) == [])
        for mode, port in [("starttls", server.smtp), ("tls", server.smtps)]:
            secure = {**settings, "smtp_security": mode, "smtp_port": port}
            send_over_tls(server, folder)
            events = trusting.fetch(secure)
            is_true(len(events) == 1, events)
            sent = trusting.answer(secure, "**Hi**")
            is_true(sent["outcome"].startswith("Sent"), mode, sent)
            wrong = trusting.ask(secure, op="probe", password="wrong")["faults"]
            is_true(len(wrong) == 2 and "535" in wrong[0] and "password" in wrong[1], wrong)

        # Whoever does not know the authority says nothing, and sends no password.
        wary = Channel(program)
        refused = wary.ask(settings, op="fetch")
        is_true("certificate" in refused["error"].lower(), refused)
        for mode, port in [("starttls", server.smtp), ("tls", server.smtps)]:
            refused = distrusting(wary, {**settings, "smtp_security": mode, "smtp_port": port}, server)
            is_true("Retry" in refused["outcome"] and "certificate" in refused["response"].lower(), refused)
        # A server without STARTTLS gets nothing in plain.
        plain = Server()
        refused = trusting.ask({**settings, "imap_port": plain.imap, "imap_security": "starttls"}, op="fetch")
        is_true("STARTTLS" in refused["error"], refused)
        bare = {**settings, "smtp_security": "starttls", "smtp_port": plain.smtp}
        refused = trusting.answer(bare, "x")
        is_true(refused["outcome"].startswith("Retry"), refused)
        plain.stop()
        server.stop()


def distrusting(channel, secure, server):
    """An answer by somebody who knows the mail but not the server's authority."""
    channel.fetch({**secure, "imap_security": "plain", "imap_port": server.imap})
    send_plain = {**secure, "imap_security": "plain", "imap_port": server.imap}
    with_mail(server)
    is_true(len(channel.fetch(send_plain)) == 1)
    return channel.answer(secure, "**Hi**")


def with_mail(server):
    """A mail that lies in the mailbox, put there over IMAP."""
    mail = f"From: {ADA}\r\nTo: {SUPPORT}\r\nSubject: x\r\nMessage-ID: <{time.time_ns()}@example.org>\r\n\r\nx\r\n"
    with imaplib.IMAP4("127.0.0.1", server.imap) as imap:
        imap.login(SUPPORT, PASSWORD)
        imap.append("INBOX", None, None, mail.encode())


def send_over_tls(server, folder):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = ADA, SUPPORT, "x"
    mail["Message-ID"] = f"<{time.time_ns()}@example.org>"
    mail.set_content("x")
    context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
    with smtplib.SMTP_SSL("localhost", server.smtps, context=context) as smtp:
        smtp.login(ADA, PASSWORD)
        smtp.send_message(mail)


def make_certificates(folder):
    """An authority of a day, and a server's certificate by it."""
    run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem",
        "-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    with open(f"{folder}/names", "w") as names:
        names.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
                    "keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth\n")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "1", "-out", "server.pem",
        "-extfile", "names")


if __name__ == "__main__":
    talk(sys.argv[1])
    with_tls(sys.argv[1])
    print(f"mail: {checks} checks with mail-devel over SMTP and IMAP, plain and with TLS")
