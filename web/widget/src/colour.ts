/** A tenant's colour, so that everything on it and in it can be read. */

export interface Colours {
  /** Grounds: as the tenant chose it. */
  brand: string;
  onBrand: string;
  /** Words and lines on the widget's own ground. */
  accent: string;
  onAccent: string;
}

type Rgb = [number, number, number];

/** What WCAG asks of words. */
const READABLE = 4.5;
const GROUNDS: Record<'light' | 'dark', Rgb[]> = {
  light: [[246, 248, 246], [255, 255, 255], [237, 241, 238]],
  dark: [[15, 21, 20], [24, 33, 32], [19, 27, 26]],
};

export function colours(chosen: string, theme: 'light' | 'dark'): Colours | null {
  const brand = parse(chosen);
  if (brand === null) return null;
  const accent = readable(brand, theme);
  return { brand: text(brand), onBrand: on(brand), accent: text(accent), onAccent: on(accent) };
}

/** The nearest colour towards black or white that can be read on every ground of the theme. */
function readable(colour: Rgb, theme: 'light' | 'dark'): Rgb {
  const end = theme === 'light' ? 0 : 255;
  for (let step = 0; step <= 20; step += 1) {
    const mixed = colour.map((part) => Math.round(part + ((end - part) * step) / 20)) as Rgb;
    if (GROUNDS[theme].every((ground) => contrast(mixed, ground) >= READABLE)) return mixed;
  }
  return [end, end, end];
}

/** Black or white, whichever is read better. */
function on(colour: Rgb): string {
  return contrast(colour, [255, 255, 255]) >= contrast(colour, [0, 0, 0]) ? '#ffffff' : '#000000';
}

export function contrast(one: Rgb, other: Rgb): number {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

function luminance(colour: Rgb): number {
  const [red, green, blue] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  }) as Rgb;
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

export function parse(colour: string): Rgb | null {
  const digits = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(colour);
  return digits ? (digits.slice(1).map((pair) => Number.parseInt(pair, 16)) as Rgb) : null;
}

function text(colour: Rgb): string {
  return `#${colour.map((part) => part.toString(16).padStart(2, '0')).join('')}`;
}
