"""A conversation by e-mail with the platform."""

import socket
import sys
import threading
import time

sys.path[:0] = ["tests/peers", "tests/peers/mail"]

import check
import platform_under_test as platform


class Door:
    """Stands before a mailbox and sees who comes and goes."""

    def __init__(self, port):
        self.behind, self.came, self.gone = port, 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            caller, _ = self.listener.accept()
            threading.Thread(target=self.pass_on, args=(caller, self.came), daemon=True).start()
            self.came += 1

    def pass_on(self, caller, visit):
        behind = socket.create_connection(("127.0.0.1", self.behind))
        back = threading.Thread(target=check.TlsBefore.pass_on, args=(behind, caller), daemon=True)
        back.start()
        check.TlsBefore.pass_on(caller, behind)
        back.join()
        self.gone.append(visit)

    def wait_for_a_visit(self):
        """Somebody comes from now on, and goes."""
        came, until = self.came, time.monotonic() + 120
        while not any(came <= visit for visit in self.gone):
            if until < time.monotonic():
                raise SystemExit("nobody looks into the mailbox")
            time.sleep(0.1)


def reply_to(server, asked):
    """The answer that names this mail, once it is there."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for mail in check.mails_of(server, check.ADA):
            if mail["In-Reply-To"] == asked["Message-ID"]:
                return mail
        time.sleep(0.5)
    raise SystemExit("no answer came by mail")


def main():
    server = check.Server()
    base, assistant = platform.tenant()
    secrets = {"smtp_password": check.PASSWORD}
    door = Door(server.imap)
    settings = check.settings_of(server, imap_port=door.port)
    made = platform.channel(base, "email", assistant, settings, secrets)
    connected = platform.connect(base, made)
    check.is_true(check.SUPPORT in str(connected), connected)
    # The first look finds where the mailbox ends.
    door.wait_for_a_visit()
    asked = check.send(server, "Order 17", "Where is parcel seventeen?\n")
    reply = reply_to(server, asked)
    text = reply.get_body(("plain",)).get_content()
    check.is_true(platform.says(text, "parcel seventeen"), text)
    check.is_true(reply["Auto-Submitted"] == "auto-replied" and reply["Subject"] == "Re: Order 17", reply.items())

    again = check.send(server, "Re: Order 17", f"And number eighteen?\n\nOn Sat, Shop <{check.SUPPORT}> wrote:\n> {text}",
                       In_Reply_To=reply["Message-ID"], References=f"{asked['Message-ID']} {reply['Message-ID']}")
    second = reply_to(server, again)
    check.is_true(platform.says(second.get_body(("plain",)).get_content(), "number eighteen"))
    check.is_true(second["References"].split()[0] == asked["Message-ID"], second.items())
    conversations = platform.admin("GET", f"{base}/conversations")["data"]
    check.is_true(len(conversations) == 1, conversations)
    # One reply each, however often the mailbox is looked into.
    time.sleep(25)
    count = len([mail for mail in check.mails_of(server, check.ADA) if mail["From"] and "Shop" in mail["From"]])
    check.is_true(count == 2, count)
    server.stop()


main()
