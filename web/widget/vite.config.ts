import { defineConfig } from 'vitest/config';

export default defineConfig({
  // What is shared with the chat page draws with this one's own copy.
  resolve: { dedupe: ['preact', 'streaming-markdown'] },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  define: { __VERSION__: JSON.stringify(process.env['npm_package_version'] ?? '0') },
  build: {
    target: 'es2022',
    // One plain script, for pages that we do not know: no module, no second file, no names in theirs.
    lib: { entry: 'src/main.tsx', formats: ['iife'], name: 'QudaoWidget', fileName: () => 'widget.js' },
    reportCompressedSize: false,
  },
  test: { environment: 'jsdom', include: ['test/**/*.test.ts'] },
});
