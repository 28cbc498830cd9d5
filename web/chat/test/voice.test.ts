import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { ChatClient } from '../src/client';
import { readParts } from '../src/parts';
import { canRecord, clock, Recording } from '../src/voice';

/** A microphone that can be seen to be on, and a recorder that says a word. */
class FakeRecorder {
  static isTypeSupported = (type: string): boolean => FakeRecorder.types.includes(type);
  static types = ['audio/ogg;codecs=opus'];
  state = 'inactive';
  mimeType: string;
  ondataavailable?: (event: { data: Blob }) => void;
  onstop?: () => void;
  constructor(_: unknown, options: { mimeType: string }) {
    this.mimeType = options.mimeType;
  }
  start(): void {
    this.state = 'recording';
  }
  stop(): void {
    this.state = 'inactive';
    this.ondataavailable?.({ data: new Blob(['word']) });
    this.onstop?.();
  }
}

const stop = vi.fn();
let microphone: () => Promise<unknown>;
const asked: [string, RequestInit][] = [];
const client = { ask: async (path: string, init: RequestInit) => void asked.push([path, init]) } as unknown as ChatClient;

beforeEach(() => {
  asked.length = 0;
  stop.mockClear();
  FakeRecorder.types = ['audio/ogg;codecs=opus'];
  microphone = async () => ({ getTracks: () => [{ stop }] });
  vi.stubGlobal('MediaRecorder', FakeRecorder);
  vi.stubGlobal('navigator', { mediaDevices: { getUserMedia: () => microphone() } });
});
afterEach(() => void vi.unstubAllGlobals());

test('what was spoken is sent as a voice message, under one id however often', async () => {
  const recording = await Recording.begin();
  expect(stop).not.toHaveBeenCalled();
  await recording.send(client);
  await recording.send(client);
  expect(stop).toHaveBeenCalled();
  const [path, { method, body }] = asked[0]!;
  expect(path).toBe(`/files?id=${recording.id}&name=voice.ogg&voice=true`);
  expect(method).toBe('POST');
  expect((body as Blob).size).toBe(4);
  expect(asked[1]![0]).toBe(path);
});

test('who stops turns the microphone off and sends nothing', async () => {
  const recording = await Recording.begin();
  await recording.end();
  await recording.end();
  expect(stop).toHaveBeenCalled();
  expect(asked).toEqual([]);
});

test('the microphone is off at once, however late the recorder says that it stopped', async () => {
  const recording = await Recording.begin();
  vi.spyOn(FakeRecorder.prototype, 'stop').mockImplementationOnce(function (this: FakeRecorder) {
    this.state = 'inactive';
    setTimeout(() => this.onstop?.());
  });
  const ended = recording.end();
  expect(stop).toHaveBeenCalledTimes(1);
  await ended;
});

test('why there is no microphone is told apart', async () => {
  for (const [name, why] of [['NotAllowedError', 'denied'], ['SecurityError', 'denied'], ['NotFoundError', 'missing'], ['NotReadableError', 'failed']]) {
    microphone = () => Promise.reject(new DOMException('no', name));
    await expect(Recording.begin()).rejects.toBe(why);
  }
});

test('a browser that cannot record what the server reads is offered nothing', () => {
  expect(canRecord()).toBe(true);
  FakeRecorder.types = ['audio/mp4'];
  expect(canRecord()).toBe(false);
  vi.stubGlobal('MediaRecorder', undefined);
  expect(canRecord()).toBe(false);
});

test('a length is read as minutes and seconds', () => {
  expect([0, 999, 1_000, 65_000, 600_000].map(clock)).toEqual(['0:00', '0:00', '0:01', '1:05', '10:00']);
});

test('a voice message shows what is said in it beside it, and another sound its name', () => {
  const sound = { type: 'audio', name: 'voice.webm', alt: 'Where is my parcel?' };
  expect(readParts([{ ...sound, voice: true }, sound])).toMatchObject([
    { voice: true, name: '', caption: 'Where is my parcel?' },
    { voice: false, name: 'Where is my parcel?', caption: '' },
  ]);
});
