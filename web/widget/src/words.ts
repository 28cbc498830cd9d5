/** The widget's own words; the rest are the chat page's. */
import type { Language } from '../../chat/src/words';

const en = {
  open: 'Open the chat',
  openUnread: 'Open the chat, {n} new',
  close: 'Close the chat',
  intro: 'You are talking with an AI assistant. What it says may be wrong.',
  save: 'Save the conversation',
  saveFile: 'Save as a file',
  cancel: 'Cancel',
  mailTo: 'Send the conversation to this e-mail address',
  mailSend: 'Send',
  mailNote: 'All that is said here so far is sent there. Check the address.',
  mailed: 'It is on its way.',
  mailWrong: 'Please check the address.',
  mailLater: 'Too often. Please try again later.',
  mailFailed: 'It was not sent. Please try again.',
  rate: 'Was this helpful?',
  good: 'Yes',
  bad: 'No',
  thanks: 'Thank you for telling us.',
};

export type WidgetWords = typeof en;

const zh: WidgetWords = {
  open: '打开对话',
  openUnread: '打开对话，{n} 条新消息',
  close: '关闭对话',
  intro: '与您对话的是 AI 助手，它的回答可能有误。',
  save: '保存对话',
  saveFile: '保存为文件',
  cancel: '取消',
  mailTo: '将对话发送到此邮箱',
  mailSend: '发送',
  mailNote: '将发送目前为止的全部对话，请核对邮箱地址。',
  mailed: '已发出，请查收。',
  mailWrong: '请检查邮箱地址。',
  mailLater: '操作过于频繁，请稍后再试。',
  mailFailed: '未能发送，请重试。',
  rate: '这次对话有帮助吗？',
  good: '有帮助',
  bad: '没有帮助',
  thanks: '感谢您的反馈。',
};

export const WIDGET_WORDS: Record<Language, WidgetWords> = { en, zh };

const RIGHT_TO_LEFT = /^(ar|he|iw|fa|ur|ps|yi|dv|sd|ug|ckb)\b/i;

export interface Tongue {
  /** The words that the widget has for it. */
  language: Language;
  tag: string;
  direction: 'ltr' | 'rtl';
}

/** The first tag that is not empty decides. */
export function tongue(tags: readonly (string | undefined)[], direction: 'auto' | 'ltr' | 'rtl'): Tongue {
  const tag = tags.find((one) => one !== undefined && one.trim() !== '')?.trim() ?? 'en';
  const own = RIGHT_TO_LEFT.test(tag) ? 'rtl' : 'ltr';
  return { language: /^zh\b/i.test(tag) ? 'zh' : 'en', tag, direction: direction === 'auto' ? own : direction };
}
