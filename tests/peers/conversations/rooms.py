"""A conversation on Matrix with the platform."""

import json
import os
import sys
import tempfile
import urllib.parse

sys.path[:0] = ["tests/peers", "tests/peers/matrix"]

import check
import platform_under_test as platform


def main():
    port = int(os.environ["QUDAO_MATRIX_PORT"])
    homeserver = f"http://127.0.0.1:{port}"
    base, assistant = platform.tenant()
    settings = {"homeserver_url": homeserver, "user_id": check.OWN, "registration_id": "qudao"}
    secrets = {"as_token": check.AS_TOKEN, "hs_token": check.HS_TOKEN}
    made = platform.channel(base, "matrix", assistant, settings, secrets)
    inbound = platform.BASE + made["inbound_path"]
    with tempfile.TemporaryDirectory() as folder:
        synapse = check.start_synapse(folder, port, inbound)
        try:
            connected = platform.connect(base, made)
            check.is_true(check.OWN in str(connected), connected)
            ada = check.Person(homeserver, "ada")
            room = {"invite": [check.OWN], "is_direct": True, "preset": "private_chat"}
            room = ada.call("POST", "createRoom", room)["room_id"]
            joined = lambda event: event["type"] == "m.room.member" and event["sender"] == check.OWN
            ada.see(room, lambda event: joined(event) and event["content"]["membership"] == "join")
            for words in ["Where is parcel seventeen?", "And number eighteen 😀?"]:
                ada.say(room, words)
                answered = ada.see(room, lambda event: whole(event, words))
                check.is_true(answered is not None)
            # Whatever was shown growing, each question has one answer.
            path = f"rooms/{urllib.parse.quote(room)}/messages?" + urllib.parse.urlencode({"dir": "b", "limit": "100"})
            events = ada.call("GET", path)["chunk"]
            own = [event for event in events if event["sender"] == check.OWN and event["type"] == "m.room.message"]
            first = [event for event in own if event["content"].get("m.relates_to", {}).get("rel_type") != "m.replace"]
            check.is_true(len(first) == 2, json.dumps(own))
        finally:
            synapse.terminate()
            synapse.wait()


def whole(event, words):
    """An answer, or the edit that completes it."""
    if event["sender"] != check.OWN or event["type"] != "m.room.message":
        return False
    content = event["content"].get("m.new_content", event["content"])
    return platform.says(content["body"], words)


main()
