/** A voice message while it is spoken: the microphone, and what it recorded. */
import { clientId, type ChatClient } from './client';

/** Why nothing is recorded: the person or the browser forbids it, there is no microphone, or it fails. */
export type Silence = 'denied' | 'missing' | 'failed';

/** What browsers record that the server reads, the preferred first. */
const TYPES = ['audio/webm;codecs=opus', 'audio/ogg;codecs=opus'];
/** The longest voice message; then the microphone goes off by itself. */
export const LONGEST_MS = 5 * 60_000;
/** Enough for speech. */
const BITS_PER_SECOND = 32_000;

/** What this browser records; empty if it is nothing that the server reads. */
function recordedType(): string {
  const known = typeof MediaRecorder === 'undefined' ? [] : TYPES.filter((type) => MediaRecorder.isTypeSupported(type));
  return known[0] ?? '';
}

/** Whether this browser can record what the server reads. Without https it may not. */
export function canRecord(): boolean {
  return navigator.mediaDevices !== undefined && recordedType() !== '';
}

export class Recording {
  /** The same however often it is sent: it becomes one message. */
  readonly id = clientId();
  #recorder: MediaRecorder;
  #microphone: MediaStream;
  #pieces: Blob[] = [];
  #ended: Promise<void>;
  #begun = performance.now();
  #length = 0;

  /** Asks for the microphone and begins; throws a `Silence`. */
  static async begin(): Promise<Recording> {
    try {
      const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
      return new Recording(microphone);
    } catch (error) {
      const name = error instanceof DOMException ? error.name : '';
      const why: Silence = name === 'NotAllowedError' || name === 'SecurityError' ? 'denied' : name === 'NotFoundError' ? 'missing' : 'failed';
      throw why;
    }
  }

  constructor(microphone: MediaStream) {
    this.#microphone = microphone;
    this.#recorder = new MediaRecorder(microphone, { mimeType: recordedType(), audioBitsPerSecond: BITS_PER_SECOND });
    this.#recorder.ondataavailable = ({ data }) => this.#pieces.push(data);
    this.#ended = new Promise((resolve) => {
      this.#recorder.onstop = () => {
        this.#length = performance.now() - this.#begun;
        this.#silence();
        resolve();
      };
    });
    this.#recorder.start();
  }

  /** How long it is, in milliseconds. */
  get length(): number {
    return this.#length || performance.now() - this.#begun;
  }

  /** Turns the microphone off; what was recorded stays. */
  end(): Promise<void> {
    if (this.#recorder.state !== 'inactive') {
      this.#recorder.stop();
      // At once: the recorder says only later that it stopped, and until then the browser shows that
      // somebody listens.
      this.#silence();
    }
    return this.#ended;
  }

  #silence(): void {
    for (const track of this.#microphone.getTracks()) track.stop();
  }

  /** Sends it as a message; throws what went wrong. */
  async send(client: ChatClient): Promise<void> {
    await this.end();
    const type = this.#recorder.mimeType;
    const name = `voice.${type.includes('ogg') ? 'ogg' : 'webm'}`;
    await client.ask(`/files?id=${this.id}&name=${name}&voice=true`, {
      method: 'POST',
      // Not the sound's own type: a page of another site would have to ask for it.
      headers: { 'content-type': 'text/plain' },
      body: new Blob(this.#pieces),
    });
  }
}

/** `1:05`. */
export function clock(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}
