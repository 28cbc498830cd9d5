"""A conversation by e-mail with the platform."""

import sys
import time

sys.path[:0] = ["tests/peers", "tests/peers/mail"]

import check
import platform_under_test as platform


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
    door = check.Before(server.imap)
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
