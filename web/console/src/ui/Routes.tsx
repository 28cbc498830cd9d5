/** Routes: the list, how models do, and the way to one of them. */
import type { JSX } from 'preact';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import type { Offer, Route } from '../protocol';
import { may } from '../scopes';
import { fill } from '../words';
import { useRouteWords, withRouteDetails } from '../words/routes';
import { SurroundingsContext, useSession, useSurroundings } from './context';
import { useAssistants, useList, useRead, useTenantPath, type Read } from './data';
import { Decisions } from './Decisions';
import { money } from './Home';
import { Lazy } from './Lazy';
import { Chevron, Heading, Rows, Section } from './parts';
import { RoutePage } from './RoutePage';

export function Routes(): JSX.Element {
  const around = useSurroundings();
  const { route } = around.console;
  const item = 'item' in route ? route.item : undefined;
  const part = 'part' in route ? route.part : undefined;
  const changes = may(useSession().scopes, 'assistants:write');
  const words = useMemo(() => withRouteDetails(around.words, around.language), [around.language]);
  return (
    <SurroundingsContext.Provider value={{ ...around, words }}>
      {changes && item === 'new' ? (
        <Lazy key="new" load={async () => (await import('./RouteForm')).NewRoute} />
      ) : changes && part === 'edit' ? (
        <Lazy key="edit" load={async () => (await import('./RouteForm')).EditRoute} />
      ) : item === undefined || item === 'new' ? (
        <List changes={changes} />
      ) : (
        <RoutePage key={item} id={item} changes={changes} />
      )}
    </SurroundingsContext.Provider>
  );
}

function List({ changes }: { changes: boolean }): JSX.Element {
  const words = useRouteWords();
  const path = useTenantPath();
  const routes = useList<Route>(path('/routes'));
  const offers = useOffers();
  const users = useUsers();
  const reads = may(useSession().scopes, 'conversations:read');
  return (
    <>
      <section class="section">
        <div class="section-head">
          <div>
            <Heading>{words.title}</Heading>
            <p class="muted">{words.intro}</p>
          </div>
          {changes && <a class="button strong" href="#/routes/new">{words.create}</a>}
        </div>
        <Rows list={routes} none={words.none}>{(route) => <RouteRow key={route.id} route={route} users={users(route.id)} />}</Rows>
      </section>
      <Section title={words.now}>
        <ul class="rows">{offers.value?.data.map((offer) => <OfferRow key={offer.model} model={offer.model} offers={offers} />)}</ul>
      </Section>
      {reads && <Decisions routes={routes.items} />}
    </>
  );
}

function RouteRow({ route, users }: { route: Route; users: string }): JSX.Element {
  const words = useRouteWords();
  return (
    <li class="row goes" data-test={`route-${route.name}`}>
      <div class="row-text">
        <p class="row-title">
          <a class="row-link" href={`#/routes/${route.id}`} dir="auto">{route.name}</a>
          <TrialTag route={route} />
        </p>
        <p class="muted dots">
          <span dir="auto">{route.models.join(' → ')}</span>
          {route.rules.length > 0 && <span>{fill(words.rulesCount, { n: String(route.rules.length) })}</span>}
          {users !== '' && <span dir="auto">{fill(words.usedBy, { names: users })}</span>}
        </p>
      </div>
      <Chevron />
    </li>
  );
}

export function TrialTag({ route: { canary } }: { route: Route }): JSX.Element | null {
  const words = useRouteWords();
  if (canary === null) return null;
  return canary.state === 'running' ? <span class="tag good">{fill(words.trialOf, { model: canary.model })}</span> : <span class="tag warn">{words.rolledBack}</span>;
}

/** Reads again and again while somebody looks. */
export function useEvery(seconds: number, read: () => Promise<void>): void {
  // What else is drawn anew meanwhile does not begin the wait again.
  const latest = useRef(read);
  latest.current = read;
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === 'visible') void latest.current();
    }, seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
}

/** What routes may name, as it is now. */
export function useOffers(): Read<{ data: Offer[] }> {
  const path = useTenantPath();
  const offers = useRead<{ data: Offer[] }>(path('/models'));
  useEvery(5, offers.reload);
  return offers;
}

/** The names of the assistants that a route serves. */
export function useUsers(): (route: string) => string {
  const { words } = useSurroundings();
  const assistants = useAssistants();
  return (route) => (assistants ?? []).filter((one) => one.route_id === route).map(({ name }) => name).join(words.joint);
}

/** A model, how it does, and what it costs. */
export function OfferRow({ model, offers }: { model: string; offers: Read<{ data: Offer[] }> }): JSX.Element {
  const words = useRouteWords();
  const { language } = useSurroundings();
  const offer = offers.value?.data.find((one) => one.model === model);
  const cost = (amount: string): string => money(amount, offer?.price.currency ?? '', language);
  return (
    <li class="row" data-test={`model-${model}`}>
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{model}</span>
          {offers.value && <HealthTag offer={offer} />}
        </p>
        {offer && (
          <p class="muted dots">
            <span>{words.kinds[offer.kind]}</span>
            <span>{offer.data_class === 'local' ? words.local : words.remote}</span>
            <span>{fill(words.price, { in: cost(offer.price.input_per_mtok), out: cost(offer.price.output_per_mtok) })}</span>
            {Number(offer.price.per_call) > 0 && <span>{fill(words.perCall, { n: cost(offer.price.per_call) })}</span>}
          </p>
        )}
      </div>
    </li>
  );
}

function HealthTag({ offer }: { offer: Offer | undefined }): JSX.Element {
  const words = useRouteWords();
  const serves = offer?.state === 'ready' || offer?.state === 'degraded';
  const state = offer === undefined ? 'gone' : serves ? offer.breaker : offer.state;
  const look = ({ closed: 'good', half_open: 'warn', loading: 'warn' } as Record<string, string>)[state] ?? 'bad';
  const waits = serves && offer?.open_for_s ? fill(words.state['wait'] ?? '', { n: String(Math.ceil(offer.open_for_s)) }) : words.state[state];
  return <span class={`tag ${look}`} data-test="health">{waits}</span>;
}
