import { defineConfig } from 'vitest/config';

export default defineConfig({
  base: '/',
  // What is shared with the chat page draws with this page's own copy.
  resolve: { dedupe: ['preact'] },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    target: 'es2022',
    assetsDir: 'assets/console',
    // The page runs under a policy that allows neither inline script nor data: scripts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    cssCodeSplit: false,
    reportCompressedSize: false,
  },
  test: { environment: 'jsdom', include: ['test/**/*.test.ts'] },
});
