/** Channels: the list, and the way to one of them. */
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { ago, channelState, labelled } from '../channels';
import type { Channel, ChannelKind } from '../protocol';
import { may } from '../scopes';
import { detailWords, fill } from '../words';
import { useChannelWords, withDetails } from '../words/channels';
import { ChannelPage } from './ChannelPage';
import { NewChannel } from './ChannelForm';
import { SurroundingsContext, useSession, useSurroundings } from './context';
import { useAssistantNames, useList, useRead, useTenantPath } from './data';
import { Chevron, Heading, Rows } from './parts';

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
  const kinds = useKinds();
  const assistantOf = useAssistantNames();
  const empty = channels.ready && channels.refusal === null && channels.more === null && !channels.items.some(isOwn);
  return (
    <section class="section">
      <div class="section-head">
        <div>
          <Heading>{words.title}</Heading>
          <p class="muted">{words.intro}</p>
        </div>
        {changes && !empty && <a class="button strong" href="#/channels/new">{words.create}</a>}
      </div>
      {empty ? (
        <div class="card empty">
          <ChannelMark kind="web" />
          <p>{changes ? words.none : words.noneToSee}</p>
          {changes && <a class="button strong" href="#/channels/new">{words.create}</a>}
        </div>
      ) : (
        <Rows list={channels} none="" filter={isOwn}>
          {(channel) => <ChannelRow key={channel.id} channel={channel} kind={kinds?.find(({ kind }) => kind === channel.kind) ?? null} assistant={assistantOf(channel.assistant_id)} />}
        </Rows>
      )}
    </section>
  );
}

/** The channel of the API is no place where customers write. */
const isOwn = (channel: Channel): boolean => channel.kind !== 'api';

function ChannelRow({ channel, kind, assistant }: { channel: Channel; kind: ChannelKind | null; assistant: string | null }): JSX.Element {
  const { language, words: all } = useSurroundings();
  const words = useChannelWords();
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
          <span>{kind ? kindName(kind, language) : channel.kind}</span>
          {channel.account && <span dir="auto">{channel.account}</span>}
          {assistant && <span dir="auto">{fill(words.answeredBy, { name: assistant })}</span>}
          <span>{channel.last_message_at ? fill(words.lastMessage, { date: ago(channel.last_message_at, Date.now(), language) }) : words.noMessage}</span>
        </p>
        {wrong !== '' && <p class="wrong">{detailWords(all, labelled(wrong, kind, language))}</p>}
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

export function useKinds(): ChannelKind[] | null {
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'channels:read');
  return useRead<{ data: ChannelKind[] }>(reads ? path('/channel-kinds') : null).value?.data ?? null;
}

export function kindName(kind: ChannelKind, language: string): string {
  return language === 'zh' ? kind.name_zh : kind.name;
}
