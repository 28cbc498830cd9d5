/** Channels: the list, and the way to one of them. */
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { channelState } from '../channels';
import type { Assistant, Channel, ChannelKind, Page } from '../protocol';
import { may } from '../scopes';
import { detailWords, fill } from '../words';
import { useChannelWords, withDetails } from '../words/channels';
import { ChannelPage } from './ChannelPage';
import { NewChannel } from './ChannelForm';
import { SurroundingsContext, useSession, useSurroundings, useTime } from './context';
import { useList, useRead, useTenantPath } from './data';
import { Heading, Rows } from './parts';

export function Channels(): JSX.Element {
  const around = useSurroundings();
  const { route } = around.console;
  const item = 'item' in route ? route.item : undefined;
  const changes = may(useSession().scopes, 'channels:write');
  // What the server says of channels comes with these pages.
  const words = useMemo(() => withDetails(around.words, around.language), [around.language]);
  return (
    <SurroundingsContext.Provider value={{ ...around, words }}>
      {item === undefined || (item === 'new' && !changes) ? <List changes={changes} /> : item === 'new' ? <NewChannel /> : <ChannelPage key={item} id={item} />}
    </SurroundingsContext.Provider>
  );
}

function List({ changes }: { changes: boolean }): JSX.Element {
  const words = useChannelWords();
  const path = useTenantPath();
  const channels = useList<Channel>(path('/channels'));
  const nameOf = useKindNames();
  const assistantOf = useAssistantNames();
  const shown = channels.items.filter(isOwn);
  return (
    <section class="section">
      <div class="section-head">
        <div>
          <Heading>{words.title}</Heading>
          <p class="muted">{words.intro}</p>
        </div>
        {changes && <a class="button strong" href="#/channels/new">{words.create}</a>}
      </div>
      {channels.ready && channels.refusal === null && shown.length === 0 && channels.more === null ? (
        <div class="card empty">
          <ChannelMark kind="web" />
          <p>{changes ? words.none : words.noneToSee}</p>
          {changes && <a class="button" href="#/channels/new">{words.create}</a>}
        </div>
      ) : (
        <Rows list={channels} none="" filter={isOwn}>
          {(channel) => <ChannelRow key={channel.id} channel={channel} kind={nameOf(channel.kind)} assistant={assistantOf(channel.assistant_id)} />}
        </Rows>
      )}
    </section>
  );
}

/** The channel of the API is no place where customers write. */
const isOwn = (channel: Channel): boolean => channel.kind !== 'api';

function ChannelRow({ channel, kind, assistant }: { channel: Channel; kind: string; assistant: string | null }): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useChannelWords();
  const time = useTime();
  const wrong = whatIsWrong(words, channel);
  return (
    <li class={channel.open ? 'row goes' : 'row goes over'} data-test={`channel-${channel.name}`}>
      <ChannelMark kind={channel.kind} />
      <div class="row-text">
        <p class="row-title">
          <a class="row-link" href={`#/channels/${channel.id}`} dir="auto">{channel.name}</a>
          <StateTag channel={channel} />
        </p>
        <p class="muted dots">
          <span>{kind}</span>
          {channel.account && <span dir="auto">{channel.account}</span>}
          {assistant && <span dir="auto">{fill(words.answeredBy, { name: assistant })}</span>}
          <span>{channel.last_message_at ? fill(words.lastMessage, { date: time(channel.last_message_at) }) : words.noMessage}</span>
        </p>
        {wrong !== '' && <p class="wrong">{detailWords(all, wrong)}</p>}
      </div>
      <Chevron />
    </li>
  );
}

/** One line on what somebody has to look after; empty if nothing. */
function whatIsWrong(words: ReturnType<typeof useChannelWords>, channel: Channel): string {
  const { partner } = channel;
  if (!channel.open) return '';
  if (partner?.endpoint === 'paused' || partner?.endpoint === 'disabled') {
    return fill(words.partner.endpointBodies[partner.endpoint] ?? '', { n: String(partner.failures) });
  }
  return channel.fault ?? '';
}

export function StateTag({ channel }: { channel: Channel }): JSX.Element {
  const words = useChannelWords();
  const state = channelState(channel);
  const look = { live: 'good', fault: 'bad', sandbox: 'warn', untried: 'warn', closed: '' }[state];
  return <span class={`tag ${look}`} data-test="state">{words.states[state]}</span>;
}

const MARKS: Record<string, string> = {
  telegram: 'TG', slack: 'SL', whatsapp: 'WA', messenger: 'M', instagram: 'IG', email: '@', matrix: '[m]', feishu: '飞', wecom: '企', wechat: '微',
  discord: 'DC', line: 'LN', dingtalk: '钉',
};
const DRAWN: Record<string, string> = {
  web: 'M3.5 4.5h13v9h-7l-3.5 3v-3h-2.5zM7 8h6M7 10.5h4',
  partner: 'M4 7h11m-3-3 3 3-3 3M16 13H5m3-3-3 3 3 3',
};

export function ChannelMark({ kind }: { kind: string }): JSX.Element {
  const drawn = DRAWN[kind];
  return (
    <span class={`kind-mark kind-${kind}`} aria-hidden="true">
      {drawn ? <svg class="icon" viewBox="0 0 20 20"><path d={drawn} /></svg> : (MARKS[kind] ?? '·')}
    </span>
  );
}

export function Chevron(): JSX.Element {
  return (
    <svg class="icon chevron" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d="m8 5 5 5-5 5" />
    </svg>
  );
}

export function Back({ href, children }: { href: string; children: string }): JSX.Element {
  return (
    <a class="back" href={href}>
      <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d="m12 5-5 5 5 5" /></svg>
      {children}
    </a>
  );
}

export function useKinds(): ChannelKind[] | null {
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'channels:read');
  return useRead<{ data: ChannelKind[] }>(reads ? path('/channel-kinds') : null).value?.data ?? null;
}

/** What a kind of channel is called. */
export function useKindNames(): (kind: string) => string {
  const { language } = useSurroundings();
  const words = useChannelWords();
  const kinds = useKinds();
  return (kind) => {
    if (kind === 'api') return words.api;
    const found = kinds?.find((one) => one.kind === kind);
    return found ? kindName(found, language) : kind;
  };
}

export function kindName(kind: ChannelKind, language: string): string {
  return language === 'zh' ? kind.name_zh : kind.name;
}

/** `null` while they are read, or for a member who may not. */
export function useAssistants(): Assistant[] | null {
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'assistants:read');
  return useRead<Page<Assistant>>(reads ? path('/assistants?limit=200') : null).value?.data ?? null;
}

export function useAssistantNames(): (id: string | null) => string | null {
  const assistants = useAssistants();
  return (id) => assistants?.find((one) => one.id === id)?.name ?? null;
}
