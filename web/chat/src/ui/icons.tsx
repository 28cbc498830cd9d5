/** Line icons on a 20-unit grid; always beside or inside something that has a name. */
import type { JSX } from 'preact';

const PATHS = {
  send: 'M10 16V4.5M5 9.2l5-5 5 5',
  sun: 'M10 6.6a3.4 3.4 0 1 0 0 6.8 3.4 3.4 0 0 0 0-6.8ZM10 2.5v1.2M10 16.3v1.2M2.5 10h1.2M16.3 10h1.2M4.7 4.7l.85.85M14.45 14.45l.85.85M15.3 4.7l-.85.85M5.55 14.45l-.85.85',
  moon: 'M16.5 11.8A6.8 6.8 0 0 1 8.2 3.5a6.8 6.8 0 1 0 8.3 8.3Z',
  copy: 'M7.5 7.5V5a1.5 1.5 0 0 1 1.5-1.5h6A1.5 1.5 0 0 1 16.5 5v6a1.5 1.5 0 0 1-1.5 1.5h-2.5M5 7.5h6A1.5 1.5 0 0 1 12.5 9v6a1.5 1.5 0 0 1-1.5 1.5H5A1.5 1.5 0 0 1 3.5 15V9A1.5 1.5 0 0 1 5 7.5Z',
  check: 'M4.5 10.5l3.7 3.7 7.3-8',
  down: 'M10 4v11.5M5 11l5 5 5-5',
  retry: 'M15.8 8.2A6.2 6.2 0 1 0 16.2 11M16 4.2v4h-4',
  file: 'M11.5 3H6a1 1 0 0 0-1 1v12a1 1 0 0 0 1 1h8a1 1 0 0 0 1-1V6.5ZM11.5 3v3.5H15',
  save: 'M10 3.5v8.5M6 8.5l4 4 4-4M4 16h12',
  close: 'M5 5l10 10M15 5L5 15',
  attach: 'M14.5 9.5l-4.6 4.6a2.8 2.8 0 0 1-4-4l5.3-5.3a1.9 1.9 0 0 1 2.7 2.7l-5.2 5.2a.9.9 0 0 1-1.3-1.3l4.4-4.4',
  mic: 'M10 3a2.4 2.4 0 0 0-2.4 2.4v4.2a2.4 2.4 0 0 0 4.8 0V5.4A2.4 2.4 0 0 0 10 3ZM5 9.4a5 5 0 0 0 10 0M10 14.4V17',
  info: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM10 9.2v4.3M10 6.4v.1',
};

export function Icon({ name }: { name: keyof typeof PATHS }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mark: a ring, and the water that leaves it through a channel. */
export function Mark(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect class="mark-ground" width="32" height="32" rx="9" />
      <circle class="mark-line" cx="15.2" cy="14.6" r="7.1" />
      <path class="mark-line" d="M13.6 17.2c2.6-1.5 4.6.3 5.9 2.6 1.2 2.2 2.8 3.9 5.3 3.5" />
    </svg>
  );
}
