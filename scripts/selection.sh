# Sourced: which packages are built and tested together.
optimised=(-p qudao-plugin-candle-llm -p qudao-plugin-vision -p qudao-encoder -p qudao-plugin-embedder
    -p qudao-plugin-sentiment -p qudao-plugin-speech -p qudao-quantize -p qudao-device -p qudao-kernels)
unoptimised=(--workspace --exclude qudao-workspace-hack)
for word in "${optimised[@]}"; do [ "$word" = -p ] || unoptimised+=(--exclude "$word"); done
