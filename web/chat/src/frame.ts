/** Paints at most once per frame, however many tokens arrive; a hidden page still paints, a little later. */
export function oncePerFrame(paint: () => void): () => void {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    const now = (): void => {
      scheduled = false;
      paint();
    };
    if (document.visibilityState === 'hidden') setTimeout(now, 100);
    else requestAnimationFrame(now);
  };
}
