"""The data stage: text in, tokenised shards with held-out splits and reference losses out."""
