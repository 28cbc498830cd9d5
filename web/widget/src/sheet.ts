/**
 * The styles, made to fit a shadow root. The chat page's are written for a page: its root is the host
 * here, and its lengths must not follow the font size that the page around has chosen for itself.
 */
export function forShadow(css: string): string {
  return css
    .replace(/:root((?:\[[^\]]*\]|:not\([^)]*\))+)/g, ':host($1)')
    .replace(/:root\b/g, ':host')
    .replace(/(-?[\d.]+)rem\b/g, (_, length: string) => `${Number(length) * 16}px`);
}

/** Made by script, so that no policy of the page has to allow inline styles. */
export function adopt(root: ShadowRoot, css: string): void {
  const text = forShadow(css);
  if ('adoptedStyleSheets' in root && 'replaceSync' in CSSStyleSheet.prototype) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(text);
    root.adoptedStyleSheets = [sheet];
    return;
  }
  const style = document.createElement('style');
  style.textContent = text;
  root.append(style);
}
