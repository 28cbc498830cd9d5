import { describe, expect, it } from 'vitest';
import { readParts } from '../src/parts';
import type { MessageFrame } from '../src/protocol';
import { Timeline } from '../src/timeline';

const NOW = Date.parse('2026-03-01T10:00:00Z');
const AT = '2026-03-01T10:00:00Z';

function message(key: string, text: string, extra: Partial<MessageFrame> = {}): MessageFrame {
  const role = key.startsWith('i') ? 'user' : 'assistant';
  return { type: 'message', cursor: `c-${key}`, key, role, text, at: AT, ...extra };
}
function delta(turn: string, epoch: number, offset: number, text: string) {
  return { type: 'delta' as const, turn, epoch, offset, text };
}
function texts(timeline: Timeline): string[] {
  return timeline.entries.map((entry) => entry.text);
}

describe('messages', () => {
  it('a message that comes twice is shown once', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi'));
    timeline.message(message('o:1', 'hello'));
    timeline.message(message('i:1', 'hi'));
    timeline.message(message('o:1', 'hello'));
    expect(texts(timeline)).toEqual(['hi', 'hello']);
    expect(timeline.cursor).toBe('c-o:1');
  });

  it('the words of a voice message come to stand beside it, those of another sound in the place of its name', () => {
    const timeline = new Timeline();
    const parts = [true, false].map((voice) => ({ type: 'audio', name: 'said.webm', voice }));
    timeline.message(message('i:1', 'hi'));
    timeline.message(message('i:2', '', { parts: readParts(parts) }));
    timeline.heard({ type: 'heard', seq: 2, place: 0, words: 'Where is it?' });
    timeline.heard({ type: 'heard', seq: 2, place: 1, words: 'A song.' });
    timeline.heard({ type: 'heard', seq: 1, place: 0, words: 'Nothing.' });
    expect(timeline.entries[0]?.parts).toBeUndefined();
    expect(timeline.entries[1]?.parts).toMatchObject([
      { name: '', caption: 'Where is it?' },
      { name: 'A song.', caption: '' },
    ]);
  });

  it('the word that a reply is begun changes nothing once the reply is there', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi'));
    timeline.status('thinking');
    expect(timeline.isBusy(NOW)).toBe(true);
    timeline.message(message('o:1', 'hello', { turn: 't1' }));
    timeline.status('thinking');
    expect(timeline.isBusy(NOW)).toBe(false);
  });

  it('a question that another tab wrote stands above its reply, though the first words overtake it', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi'));
    timeline.message(message('o:1', 'hello'));
    timeline.status('thinking');
    timeline.delta(delta('t2', 2, 0, 'ne'));
    timeline.message(message('i:2', 'news?'));
    timeline.message(message('i:3', 'and more?'));
    timeline.message(message('o:2', 'news', { turn: 't2' }));
    expect(texts(timeline)).toEqual(['hi', 'hello', 'news?', 'news', 'and more?']);
  });

  it('a question stands above its reply, though the first words overtake the word that it is stored', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi'));
    timeline.message(message('o:1', 'hello', { turn: 't1' }));
    timeline.addLocal('m2', 'where?', AT, 'sending');
    timeline.addLocal('m3', 'quick', AT, 'queued');
    timeline.delta(delta('t2', 1, 0, 'he'));
    expect(texts(timeline)).toEqual(['hi', 'hello', 'where?', 'he', 'quick']);
    timeline.accepted({ id: 'm2', key: 'i:2' });
    timeline.message(message('o:2', 'here', { turn: 't2' }));
    expect(texts(timeline)).toEqual(['hi', 'hello', 'where?', 'here', 'quick']);
    timeline.removeLocal('m3');
    expect(timeline.isBusy(NOW)).toBe(false);
  });

  it('a reply that is owed already stands above what is sent meanwhile', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi'));
    timeline.addLocal('m2', 'quick', AT, 'sending');
    timeline.delta(delta('t1', 1, 0, 'hel'));
    expect(texts(timeline)).toEqual(['hi', 'hel', 'quick']);
  });

  it('a stored message takes the place of its optimistic bubble, whichever news comes first', () => {
    for (const acceptedFirst of [true, false]) {
      const timeline = new Timeline();
      timeline.addLocal('a', 'hi', AT, 'sending');
      const id = timeline.entries[0]?.id;
      const accepted = () => timeline.accepted({ id: 'a', key: 'i:1' });
      const stored = () => timeline.message(message('i:1', 'hi', { client_id: 'a' }));
      if (acceptedFirst) (accepted(), stored());
      else (stored(), accepted());
      expect(timeline.entries).toHaveLength(1);
      expect(timeline.entries[0]).toMatchObject({ id, key: 'i:1', send: 'sent' });
    }
  });

  it('a stored message without its client id does not leave a second bubble once accepted', () => {
    const timeline = new Timeline();
    timeline.addLocal('a', 'hi', AT, 'sending');
    timeline.message(message('i:1', 'hi'));
    timeline.accepted({ id: 'a', key: 'i:1' });
    expect(texts(timeline)).toEqual(['hi']);
  });

  it('what is not sent yet stays below what is stored', () => {
    const timeline = new Timeline();
    timeline.addLocal('b', 'later', AT, 'queued');
    timeline.message(message('i:1', 'first'));
    timeline.message(message('o:1', 'answer'));
    expect(texts(timeline)).toEqual(['first', 'answer', 'later']);
  });

  it('a refused message keeps its reason until it is tried again', () => {
    const timeline = new Timeline();
    timeline.addLocal('a', 'hi', AT, 'sending');
    timeline.markSend('a', 'failed', 'insufficient_credits');
    expect(timeline.entries[0]).toMatchObject({ send: 'failed', failure: 'insufficient_credits' });
    timeline.markSend('a', 'queued');
    expect(timeline.entries[0]).not.toHaveProperty('failure');
  });
});

describe('streaming', () => {
  it('deltas grow one reply, and the stored one replaces it in place', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi'));
    timeline.delta(delta('t1', 1, 0, 'Hel'));
    timeline.delta(delta('t1', 1, 3, 'lo'));
    expect(timeline.entries[1]).toMatchObject({ text: 'Hello', streaming: true });
    const id = timeline.entries[1]?.id;
    timeline.message(message('i:2', 'and?'));
    timeline.message(message('o:1', 'Hello!', { turn: 't1' }));
    expect(texts(timeline)).toEqual(['hi', 'Hello!', 'and?']);
    expect(timeline.entries[1]?.id).toBe(id);
    expect(timeline.entries[1]?.streaming).toBeUndefined();
  });

  it('repeated and overlapping deltas add nothing twice', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, 'abc'));
    timeline.delta(delta('t1', 1, 0, 'abc'));
    timeline.delta(delta('t1', 1, 1, 'bcde'));
    expect(texts(timeline)).toEqual(['abcde']);
  });

  it('offsets count UTF-16 units, so Chinese and emoji stay whole', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, '你好😀'));
    timeline.delta(delta('t1', 1, 4, '，世界'));
    timeline.delta(delta('t1', 1, 2, '😀，世界！'));
    expect(texts(timeline)).toEqual(['你好😀，世界！']);
  });

  it('text behind a hole waits until the hole is filled', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, 'ab'));
    timeline.delta(delta('t1', 1, 6, 'gh'));
    timeline.delta(delta('t1', 1, 4, 'ef'));
    expect(texts(timeline)).toEqual(['ab']);
    timeline.delta(delta('t1', 1, 2, 'cd'));
    expect(texts(timeline)).toEqual(['abcdefgh']);
  });

  it('joining in the middle shows no torn text', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi', { at: AT }));
    timeline.delta(delta('t1', 1, 40, 'tail'));
    expect(texts(timeline)).toEqual(['hi']);
    expect(timeline.isBusy(NOW)).toBe(true);
    timeline.message(message('o:1', 'whole answer', { turn: 't1' }));
    expect(texts(timeline)).toEqual(['hi', 'whole answer']);
  });

  it('a higher epoch starts the reply anew and a lower one is not heard', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, 'first try'));
    timeline.delta(delta('t1', 2, 0, 'second'));
    timeline.delta(delta('t1', 1, 6, ' goes on'));
    timeline.delta(delta('t1', 1, 0, 'first'));
    expect(texts(timeline)).toEqual(['second']);
  });

  it('a reset clears the text, and only of its own turn and a current epoch', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 2, 0, 'text'));
    timeline.reset('t0', 3);
    timeline.reset('t1', 1);
    expect(texts(timeline)).toEqual(['text']);
    timeline.reset('t1', 3);
    expect(texts(timeline)).toEqual([]);
    timeline.delta(delta('t1', 3, 0, 'again'));
    expect(texts(timeline)).toEqual(['again']);
  });

  it('deltas that arrive after the stored reply change nothing', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, 'ab'));
    timeline.message(message('o:1', 'ab', { turn: 't1' }));
    timeline.delta(delta('t1', 1, 2, 'cd'));
    expect(texts(timeline)).toEqual(['ab']);
    expect(timeline.isBusy(NOW)).toBe(false);
  });

  it('a notice in place of a reply takes its preview away', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, 'half'));
    timeline.message(message('o:1', 'Sorry', { role: 'notice', turn: 't1' }));
    expect(timeline.entries).toHaveLength(1);
    expect(timeline.entries[0]).toMatchObject({ role: 'notice', text: 'Sorry' });
  });

  it('a new turn drops the preview of one that never ended', () => {
    const timeline = new Timeline();
    timeline.delta(delta('t1', 1, 0, 'lost'));
    timeline.delta(delta('t2', 1, 0, 'new'));
    expect(texts(timeline)).toEqual(['new']);
  });
});

describe('busy', () => {
  it('an answer is owed from acceptance until a reply or a stop', () => {
    const timeline = new Timeline();
    timeline.addLocal('a', 'hi', AT, 'sending');
    expect(timeline.isBusy(NOW)).toBe(false);
    timeline.accepted({ id: 'a', key: 'i:1' });
    expect(timeline.isBusy(NOW)).toBe(true);
    timeline.status('stopped');
    expect(timeline.isBusy(NOW)).toBe(false);
    timeline.status('thinking');
    timeline.message(message('o:1', 'done'));
    expect(timeline.isBusy(NOW)).toBe(false);
  });

  it('a question of long ago is no longer said to be thought about', () => {
    const timeline = new Timeline();
    timeline.message(message('i:1', 'hi', { at: '2026-03-01T08:00:00Z' }));
    expect(timeline.isBusy(NOW)).toBe(false);
  });
});
