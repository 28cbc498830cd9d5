// The vendors' own checks of LINE and Discord, one JSON object a line in, one a line out. Also
// signs for Discord, with the keys of Node itself: the SDK only checks.
import { createPrivateKey, createPublicKey, sign } from "node:crypto";
import { createInterface } from "node:readline";
import { validateSignature } from "@line/bot-sdk";
import { verifyKey } from "discord-interactions";

const seeded = (seed) =>
  createPrivateKey({
    key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]),
    format: "der",
    type: "pkcs8",
  });

const answer = {
  line: ({ body, secret, signature }) => validateSignature(body, secret, signature),
  discord: ({ body, key, signature, timestamp }) => verifyKey(body, signature, timestamp, key),
  "discord-sign": ({ body, seed, timestamp }) => {
    const key = seeded(Buffer.from(seed, "hex"));
    const der = createPublicKey(key).export({ format: "der", type: "spki" });
    return {
      key: der.subarray(-32).toString("hex"),
      signature: sign(null, Buffer.concat([Buffer.from(timestamp), body]), key).toString("hex"),
    };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  call.body = Buffer.from(call.body, "base64");
  let result;
  try {
    result = await answer[call.op](call);
  } catch {
    result = false;
  }
  console.log(JSON.stringify(result));
}
