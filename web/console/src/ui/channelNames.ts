/** Names of channels, for pages about what came through them. */
import type { Channel, Page } from '../protocol';
import { may } from '../scopes';
import { useContactWords } from '../words/contacts';
import { useSession } from './context';
import { useRead, useTenantPath } from './data';

/** What a channel is called, as far as the member may know. */
export function useChannelNames(): (id: string) => string {
  const words = useContactWords();
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'channels:read');
  const channels = useRead<Page<Channel>>(reads ? path('/channels?limit=200') : null).value?.data;
  return (id) => channels?.find((one) => one.id === id)?.name ?? words.channelGone;
}
