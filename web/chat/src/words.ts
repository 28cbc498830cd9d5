/** Every word of the page, in both languages. */

export type Language = 'zh' | 'en';

const en = {
  you: 'You',
  assistant: 'Assistant',
  badge: 'AI',
  disclosure: 'AI assistant. It may be wrong; check what matters.',
  poweredBy: 'Powered by Qudao',
  hello: 'How can I help you today?',
  intro: 'Ask in your own words. You are talking with an AI assistant, and what it says may be wrong.',
  suggestions: ['What can you help me with?', 'Explain a difficult idea in simple words', 'Help me write a short, polite reply'],
  placeholder: 'Write a message',
  inputLabel: 'Your message',
  send: 'Send',
  stop: 'Stop the answer',
  stopping: 'Stopping…',
  thinking: 'Thinking',
  copy: 'Copy',
  copied: 'Copied',
  copyReply: 'Copy answer',
  code: 'code',
  retry: 'Try again',
  edit: 'Edit',
  sending: 'Sending…',
  queued: 'Will be sent when the connection is back',
  sent: 'Sent',
  newMessages: 'New messages',
  toBottom: 'To the latest message',
  states: { connecting: 'Connecting…', online: 'Online', offline: 'Offline', reconnecting: 'Reconnecting…' },
  offline: 'You are offline. Messages are kept and will be sent later.',
  reconnecting: 'Connection lost. Trying again…',
  language: '切换到中文',
  languageShort: '中',
  dark: 'Dark colours',
  light: 'Light colours',
  conversation: 'Conversation',
  enterHint: 'Enter to send, Shift + Enter for a new line',
  tooLong: 'This message is too long. Please shorten it by {n} characters.',
  lostTitle: 'This chat cannot be opened',
  reload: 'Try again',
  notice: 'Notice',
  attach: 'Send a file',
  uploading: 'Sending {name}…',
  fileTooLarge: 'Files may have 10 MB at most.',
  fileKind: 'This kind of file cannot be sent. Pictures, PDF, sound and plain text can.',
  fileOffline: 'Files can be sent when the connection is back.',
  fileFailed: 'The file was not sent. Please try again.',
  speak: 'Record a voice message',
  recording: 'Recording. Press send when you are done.',
  voiceMessage: 'Voice message',
  cancelVoice: 'Discard the recording',
  sendVoice: 'Send the voice message',
  length: 'Length of the recording',
  voiceFailed: 'The voice message was not sent. It is still here: please try again.',
  silence: {
    denied: 'The microphone is blocked. Allow it for this page in your browser, then press again.',
    missing: 'No microphone was found. Connect one, or write your message.',
    failed: 'The microphone cannot be used. Another program may have it; please try again.',
  },
  errors: {
    unpaid: 'The assistant cannot take messages right now. Your message is kept; please try again later.',
    limited: 'That was a little too fast. Please wait a moment and try again.',
    closed: 'This chat has been closed by its owner. New messages cannot be sent.',
    missing: 'This chat address is not known. Please check the link.',
    tooLong: 'The message is too long for this chat.',
    refused: 'The message was not accepted.',
    server: 'The server had a problem. Your message is kept; please try again.',
  },
};

export type Words = typeof en;

const zh: Words = {
  you: '我',
  assistant: '助手',
  badge: 'AI',
  disclosure: 'AI 助手，回答可能有误，重要内容请核实。',
  poweredBy: '由渠道 Qudao 提供',
  hello: '今天想聊点什么？',
  intro: '用自己的话提问即可。与您对话的是 AI 助手，它的回答可能有误。',
  suggestions: ['你能帮我做些什么？', '用简单的话解释一个难懂的概念', '帮我写一段简短得体的回复'],
  placeholder: '输入消息',
  inputLabel: '您的消息',
  send: '发送',
  stop: '停止回答',
  stopping: '正在停止…',
  thinking: '正在思考',
  copy: '复制',
  copied: '已复制',
  copyReply: '复制回答',
  code: '代码',
  retry: '重试',
  edit: '编辑',
  sending: '发送中…',
  queued: '网络恢复后自动发送',
  sent: '已发送',
  newMessages: '有新消息',
  toBottom: '回到最新消息',
  states: { connecting: '连接中…', online: '在线', offline: '离线', reconnecting: '重新连接中…' },
  offline: '网络已断开。消息会保存，稍后自动发送。',
  reconnecting: '连接中断，正在重连…',
  language: 'Switch to English',
  languageShort: 'EN',
  dark: '深色外观',
  light: '浅色外观',
  conversation: '对话',
  enterHint: '按 Enter 发送，Shift + Enter 换行',
  tooLong: '消息太长，请删减 {n} 个字。',
  lostTitle: '无法打开此对话',
  reload: '重试',
  notice: '提示',
  attach: '发送文件',
  uploading: '正在发送 {name}…',
  fileTooLarge: '文件不能超过 10 MB。',
  fileKind: '无法发送此类文件。可发送图片、PDF、音频和纯文本。',
  fileOffline: '网络恢复后才能发送文件。',
  fileFailed: '文件未能发送，请重试。',
  speak: '录制语音消息',
  recording: '正在录音，说完后请按发送。',
  voiceMessage: '语音消息',
  cancelVoice: '放弃录音',
  sendVoice: '发送语音消息',
  length: '录音时长',
  voiceFailed: '语音消息未能发送，录音已保留，请重试。',
  silence: {
    denied: '麦克风已被禁止。请在浏览器中允许此页面使用麦克风，然后再按一次。',
    missing: '未找到麦克风。请连接麦克风，或改用文字。',
    failed: '无法使用麦克风，可能正被其他程序占用，请重试。',
  },
  errors: {
    unpaid: '助手暂时无法接收消息。您的消息已保留，请稍后再试。',
    limited: '发送得有点快，请稍等片刻再试。',
    closed: '此对话已由其所有者关闭，无法再发送消息。',
    missing: '找不到此对话地址，请检查链接。',
    tooLong: '消息过长，此对话无法接收。',
    refused: '消息未被接受。',
    server: '服务器出了点问题。您的消息已保留，请重试。',
  },
};

export const WORDS: Record<Language, Words> = { en, zh };

/** A refusal in words; the end user is not told about the tenant's money. */
export function explain(words: Words, code: string): string {
  const errors = words.errors;
  if (/^(insufficient_credits|http_402)$/.test(code)) return errors.unpaid;
  if (/^(rate_limited|http_429)$/.test(code)) return errors.limited;
  if (/^(not_found|http_404)$/.test(code)) return errors.missing;
  if (/^(channel_closed|origin_refused)$/.test(code)) return errors.closed;
  if (/^(body_too_large|context_length_exceeded|http_413)$/.test(code)) return errors.tooLong;
  if (/^(internal|unavailable|overloaded|draining|model_.*|http_5\d\d)$/.test(code)) return errors.server;
  return errors.refused;
}

export function browserLanguage(tags: readonly string[]): Language {
  return tags[0]?.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}
