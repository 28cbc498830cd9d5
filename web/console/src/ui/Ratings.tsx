/** How people found their conversations. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Channel, Page, Ratings as Read } from '../protocol';
import { combine, good, percent } from '../ratings';
import { may } from '../scopes';
import { fill, refusalWords } from '../words';
import { useContactWords } from '../words/contacts';
import { useChannelNames } from './channelNames';
import { useSession, useSurroundings, useTime } from './context';
import { useAssistantNames, useRead, useTenantPath } from './data';
import { SelectField } from './form';
import { Heading, Section } from './parts';

export function Ratings(): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useContactWords().ratings;
  const path = useTenantPath();
  const [period, setPeriod] = useState('d30');
  const read = useRead<Read>(path(`/ratings?days=${period.slice(1)}`));
  const found = read.value;
  return (
    <>
      <div class="section">
        <div class="section-head">
          <div>
            <Heading>{words.title}</Heading>
            <p class="muted">{words.intro}</p>
          </div>
          <SelectField label={words.period} pointer="" refusal={null} value={period} setValue={setPeriod} options={Object.entries(words.periods)} />
        </div>
        <div role="status">
          {found === null && read.refusal === null && <p class="muted">{all.loading}</p>}
          {found?.data.length === 0 && <p class="card empty">{words.none}</p>}
        </div>
        {read.refusal && (
          <div class="banner bad" role="alert">
            {refusalWords(all, read.refusal)} <button type="button" class="link" onClick={() => void read.reload()}>{all.retry}</button>
          </div>
        )}
        {found && found.data.length > 0 && <Figures scores={combine(found.data.map(({ scores }) => scores))} />}
      </div>
      {found && found.data.length > 0 && <Parts found={found} />}
    </>
  );
}

function Figures({ scores }: { scores: number[] }): JSX.Element {
  const words = useContactWords().ratings;
  const { language } = useSurroundings();
  const count = scores.reduce((sum, n) => sum + n, 0);
  const average = scores.reduce((sum, n, at) => sum + n * (at + 1), 0) / count;
  return (
    <div class="cards">
      <div class="card">
        <p class="card-name">{words.good}</p>
        <p class="figure" data-test="good">{percent(good(scores), count)}</p>
        <p class="muted">{words.goodHint}</p>
      </div>
      <div class="card">
        <p class="card-name">{words.average}</p>
        <p class="figure">{new Intl.NumberFormat(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(average)}</p>
        <Stars score={Math.round(average)} />
      </div>
      <div class="card">
        <p class="card-name">{words.count}</p>
        <p class="figure" data-test="count">{count}</p>
        <Bars scores={scores} />
      </div>
    </div>
  );
}

function Parts({ found }: { found: Read }): JSX.Element {
  const all = useContactWords();
  const words = all.ratings;
  const path = useTenantPath();
  const time = useTime();
  const session = useSession();
  const channelName = useChannelNames();
  const assistantName = useAssistantNames();
  const channels = useRead<Page<Channel>>(may(session.scopes, 'channels:read') ? path('/channels?limit=200') : null).value?.data ?? [];
  const byAssistant = new Map<string, number[]>();
  for (const { channel_id: id, scores } of found.data) {
    const name = assistantName(channels.find((one) => one.id === id)?.assistant_id ?? null);
    if (name !== null) byAssistant.set(name, combine([scores, byAssistant.get(name) ?? []]));
  }
  const links = may(session.scopes, 'contacts:read');
  return (
    <>
      <Section title={words.byChannel}>
        <ul class="rows">
          {found.data.map(({ channel_id: id, scores }) => <ShareRow key={id} name={channelName(id)} scores={scores} />)}
        </ul>
      </Section>
      {byAssistant.size > 0 && (
        <Section title={words.byAssistant}>
          <ul class="rows">
            {[...byAssistant].map(([name, scores]) => <ShareRow key={name} name={name} scores={scores} />)}
          </ul>
        </Section>
      )}
      <Section title={words.latest}>
        <ul class="rows">
          {found.latest.map((rating) => (
            <li key={`${rating.conversation_id} ${rating.at}`} class="row" data-test="rating">
              <div class="row-text">
                <p class="row-title"><Stars score={rating.score} /></p>
                <p class="muted dots">
                  <span dir="auto">{channelName(rating.channel_id)}</span>
                  <span>{time(rating.at)}</span>
                </p>
              </div>
              {links && <a class="button small" href={`#/contacts/${rating.contact_id}/${rating.conversation_id}`}>{words.open}</a>}
            </li>
          ))}
        </ul>
      </Section>
    </>
  );
}

function ShareRow({ name, scores }: { name: string; scores: number[] }): JSX.Element {
  const words = useContactWords().ratings;
  const count = scores.reduce((sum, n) => sum + n, 0);
  return (
    <li class="row">
      <div class="row-text">
        <p class="row-title" dir="auto">{name}</p>
        <p class="muted">{fill(words.share, { share: percent(good(scores), count), n: String(count) })}</p>
      </div>
      <Bars scores={scores} />
    </li>
  );
}

function Stars({ score }: { score: number }): JSX.Element {
  const words = useContactWords().ratings;
  return (
    <span class={score >= 4 ? 'stars' : 'stars low'} role="img" aria-label={fill(words.score, { n: String(score) })}>
      {'★'.repeat(score)}
      <span class="stars-off">{'★'.repeat(5 - score)}</span>
    </span>
  );
}

/** A bar for each score, the worst first. Drawn, so that no style stands in the page. */
function Bars({ scores }: { scores: number[] }): JSX.Element {
  const words = useContactWords().ratings;
  const most = Math.max(...scores, 1);
  return (
    <svg class="bars" viewBox="0 0 70 24" role="img" aria-label={fill(words.bars, { scores: scores.map((n, at) => `${at + 1}: ${n}`).join(', ') })}>
      {scores.map((n, at) => {
        const height = Math.max(2, Math.round((n / most) * 24));
        return <rect key={at} class={at >= 3 ? 'bar-good' : 'bar-low'} x={at * 14} y={24 - height} width="11" height={height} rx="2" />;
      })}
    </svg>
  );
}
