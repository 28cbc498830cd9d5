import { describe, expect, it } from 'vitest';
import { readRoute } from '../src/route';

const TENANT = `ten_${'0123456789abcdef'.repeat(2)}`;

describe('the address', () => {
  it('names a page', () => {
    expect(readRoute('')).toEqual({ page: 'home' });
    expect(readRoute('#/')).toEqual({ page: 'home' });
    expect(readRoute('#/members')).toEqual({ page: 'members' });
    expect(readRoute('#/account')).toEqual({ page: 'account' });
    expect(readRoute('#/nowhere')).toEqual({ page: 'home' });
    expect(readRoute('#/constructor')).toEqual({ page: 'home' });
  });

  it('names a thing of a page, and a part of it', () => {
    expect(readRoute('#/channels/chn_1')).toEqual({ page: 'channels', item: 'chn_1' });
    expect(readRoute('#/channels/new/telegram')).toEqual({ page: 'channels', item: 'new', part: 'telegram' });
    expect(readRoute('#/contacts/cnt_1/cnv_2/more')).toEqual({ page: 'contacts', item: 'cnt_1', part: 'cnv_2' });
    expect(readRoute('#/contacts/')).toEqual({ page: 'contacts' });
    expect(readRoute('#/nowhere/chn_1')).toEqual({ page: 'home' });
  });

  it('names the tenant to sign in to', () => {
    expect(readRoute(`#/${TENANT}`)).toEqual({ page: 'sign-in', tenant: TENANT });
    expect(readRoute('#/sign-in')).toEqual({ page: 'sign-in', tenant: null });
    for (const bent of ['ten_', `${TENANT}0`, TENANT.toUpperCase(), `${TENANT}'`]) {
      expect(readRoute(`#/${bent}`)).toEqual({ page: 'home' });
    }
  });

  it('carries an invitation or the reason of a failure', () => {
    expect(readRoute('#/invitation/qi_a-b_C')).toEqual({ page: 'invitation', token: 'qi_a-b_C' });
    expect(readRoute('#/invitation/%zz')).toEqual({ page: 'invitation', token: '%zz' });
    expect(readRoute('#/invitation')).toEqual({ page: 'invitation', token: null });
    expect(readRoute('#/sign-in-failed?code=stray')).toEqual({ page: 'sign-in-failed', code: 'stray' });
    expect(readRoute('#/sign-in-failed')).toEqual({ page: 'sign-in-failed', code: '' });
  });
});
