// The platforms' own libraries for Node, asked line by line: {"do": …} in, {"ok": …} out.
const readline = require("node:readline");
const crypto = require("node:crypto");
const wecom = require("@wecom/crypto");
const lark = require("@larksuiteoapi/node-sdk");

const silent = { error() {}, warn() {}, info() {}, debug() {}, trace() {} };

const answers = {
  wecomSign: ({ token, timestamp, nonce, encrypt }) => wecom.getSignature(token, timestamp, nonce, encrypt),
  wecomEncrypt: ({ key, message, id }) => wecom.encrypt(key, message, id),
  wecomDecrypt: ({ key, encrypt }) => {
    const { message, id } = wecom.decrypt(key, encrypt);
    return { message, id };
  },
  larkDecrypt: ({ key, encrypt }) => new lark.AESCipher(key).decrypt(encrypt),
  // The library only opens; this is its own way back.
  larkEncrypt: ({ key, message }) => {
    const iv = crypto.randomBytes(16);
    const cipher = crypto.createCipheriv("aes-256-cbc", crypto.createHash("sha256").update(key).digest(), iv);
    return Buffer.concat([iv, cipher.update(message, "utf8"), cipher.final()]).toString("base64");
  },
  larkChallenge: ({ key, body }) => lark.generateChallenge(body, { encryptKey: key }),
  larkEvent: async ({ key, body, headers, kind }) => {
    let heard = null;
    const dispatcher = new lark.EventDispatcher({ encryptKey: key, logger: silent }).register({
      [kind]: (event) => {
        heard = event;
        return "heard";
      },
    });
    await dispatcher.invoke(Object.assign(Object.create({ headers }), body));
    return heard;
  },
};

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const call = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await answers[call.do](call) };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
