import type { JSX } from 'preact';
import type { Tenant, Wallet } from '../protocol';
import { may } from '../scopes';
import { fill, refusalWords } from '../words';
import { useSession, useSurroundings, useWords } from './context';
import { useRead, useRoleName, useRoles, useTenantPath } from './data';
import { CopyButton } from './Dialog';
import { Heading, scopeWords } from './parts';

export function Home(): JSX.Element {
  const words = useWords();
  const session = useSession();
  const path = useTenantPath();
  const tenant = useRead<Tenant>(may(session.scopes, 'tenant:read') ? path('') : null);
  const wallet = useRead<Wallet>(may(session.scopes, 'billing:read') ? path('/wallet') : null);
  const roleName = useRoleName(useRoles());
  const refusal = tenant.refusal ?? wallet.refusal;
  const signInLink = `${location.origin}/console#/${session.tenant_id}`;
  return (
    <>
      <Heading>{fill(words.home.hello, { name: session.name })}</Heading>
      {refusal && <p class="banner bad" role="alert">{refusalWords(words, refusal)}</p>}
      <div class="cards">
        <div class="card">
          <h2 class="card-name">{words.home.business}</h2>
          <p class="figure" data-test="business">{tenant.value?.name ?? '–'}</p>
          <p class="muted mono">{session.tenant_id}</p>
        </div>
        {wallet.value && <WalletCard wallet={wallet.value} />}
        <div class="card">
          <h2 class="card-name">{words.home.role}</h2>
          <p class="figure" data-test="role">{roleName(session.role)}</p>
          <p class="muted">{session.email}</p>
          <p class="muted">{fill(words.home.may, { what: scopeWords(words, session.scopes) })}</p>
        </div>
      </div>
      <div class="card">
        <h2 class="card-name">{words.home.signInLink}</h2>
        <code class="secret">{signInLink}</code>
        <div class="actions"><CopyButton value={signInLink} /></div>
      </div>
    </>
  );
}

function WalletCard({ wallet }: { wallet: Wallet }): JSX.Element {
  const { language, words } = useSurroundings();
  const { available, held } = wallet;
  return (
    <div class="card">
      <h2 class="card-name">{words.home.wallet}</h2>
      <p class="figure" data-test="wallet">{money(available.amount, available.currency, language)}</p>
      {Number(held.amount) > 0 && (
        <p class="muted">{fill(words.home.held, { amount: money(held.amount, held.currency, language) })}</p>
      )}
    </div>
  );
}

/** The decimal text as it came, never through a float: at least two places, no idle zeros after. */
export function money(amount: string, currency: string, language: string): string {
  const [whole = '0', places = ''] = amount.split('.');
  const kept = places.replace(/0+$/, '').padEnd(2, '0');
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ',');
  return language === 'zh' && currency === 'CNY' ? `¥${grouped}.${kept}` : `${grouped}.${kept} ${currency}`;
}
