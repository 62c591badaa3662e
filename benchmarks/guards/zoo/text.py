"""Text and audio models of transformers, each from a configuration of a few layers."""

from __future__ import annotations

import torch

from benchmarks.guards.zoo.common import VOCAB, Builder, floats, hf, tokens, wave

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_labels": 4,
}  # fmt: skip
BASE = {
    **TINY, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SPEECH = {
    **TINY, "conv_dim": [16, 16, 16], "conv_stride": [5, 4, 2], "conv_kernel": [10, 8, 3],
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 3,
    "classifier_proj_size": 16, "apply_spec_augment": False, "layerdrop": 0.0,
}  # fmt: skip
LLAMA = {**BASE, "num_key_value_heads": 2}


def boxed() -> dict[str, torch.Tensor]:
    """Tokens with a box on the page for each."""
    corner, size = torch.randint(0, 30, (2, 16, 2)), torch.randint(1, 30, (2, 16, 2))
    return {**tokens()(), "bbox": torch.cat([corner, corner + size], -1)}


TEXT: dict[str, Builder] = {
    "bert": hf("BertForSequenceClassification", tokens(), **BASE),
    "bert-masked-lm": hf("BertForMaskedLM", tokens(), **BASE),
    "minilm": hf("BertModel", tokens(), **{**BASE, "num_attention_heads": 8}),
    "distilbert": hf(
        "DistilBertForSequenceClassification", tokens(), vocab_size=VOCAB, dim=32, n_layers=2,
        n_heads=4, hidden_dim=64, max_position_embeddings=64, num_labels=4,
    ),
    "roberta": hf("RobertaForSequenceClassification", tokens(), **BASE),
    "xlm-roberta": hf("XLMRobertaForTokenClassification", tokens(), **BASE),
    "camembert": hf("CamembertForSequenceClassification", tokens(mask=False), **BASE),
    "albert": hf("AlbertForSequenceClassification", tokens(), embedding_size=16, **BASE),
    "electra": hf("ElectraForSequenceClassification", tokens(), embedding_size=16, **BASE),
    "mobilebert": hf(
        "MobileBertForSequenceClassification", tokens(), embedding_size=32,
        intra_bottleneck_size=16, **BASE,
    ),
    "squeezebert": hf(
        "SqueezeBertForSequenceClassification", tokens(), embedding_size=32, **BASE
    ),
    "deberta": hf(
        "DebertaForSequenceClassification", tokens(), relative_attention=True,
        pos_att_type=["c2p", "p2c"], position_biased_input=False, pooler_hidden_size=32, **BASE,
    ),
    "deberta-v2": hf(
        "DebertaV2ForSequenceClassification", tokens(), relative_attention=True,
        pos_att_type=["c2p", "p2c"], position_buckets=8, norm_rel_ebd="layer_norm",
        share_att_key=True, position_biased_input=False, pooler_hidden_size=32, **BASE,
    ),
    "mpnet": hf("MPNetForSequenceClassification", tokens(), **BASE),
    "fnet": hf("FNetForSequenceClassification", tokens(mask=False), **BASE),
    "convbert": hf("ConvBertForSequenceClassification", tokens(), embedding_size=32, **BASE),
    "funnel": hf(
        "FunnelForSequenceClassification", tokens(), vocab_size=VOCAB, block_sizes=[1, 1],
        d_model=32, n_head=4, d_head=8, d_inner=64, num_labels=4,
    ),
    "layoutlm": hf("LayoutLMForSequenceClassification", boxed, **BASE),
    "lilt": hf(
        "LiltForSequenceClassification", boxed, channel_shrink_ratio=2,
        **{**BASE, "hidden_size": 48},
    ),
    "roformer": hf("RoFormerForSequenceClassification", tokens(), **BASE),
    "modernbert": hf(
        "ModernBertForSequenceClassification", tokens(), local_attention=8,
        cls_token_id=1, sep_token_id=2, **BASE,
    ),
    "nomic-bert": hf("NomicBertForSequenceClassification", tokens(), **BASE),
    "jina-embeddings-v3": hf("JinaEmbeddingsV3ForSequenceClassification", tokens(), **BASE),
    "eurobert": hf("EuroBertForSequenceClassification", tokens(), **BASE),
    "esm": hf(
        "EsmForSequenceClassification", tokens(), position_embedding_type="rotary",
        mask_token_id=4, **BASE,
    ),
    "rembert": hf(
        "RemBertForSequenceClassification", tokens(), input_embedding_size=16,
        output_embedding_size=16, **BASE,
    ),
    "megatron-bert": hf("MegatronBertForSequenceClassification", tokens(), **BASE),
    "ibert": hf("IBertForSequenceClassification", tokens(), **BASE),
    "nystromformer": hf(
        "NystromformerForSequenceClassification", tokens(mask=False), num_landmarks=4,
        segment_means_seq_len=16, conv_kernel_size=5, **BASE,
    ),
    "xlnet": hf(
        "XLNetForSequenceClassification", tokens(), vocab_size=VOCAB, d_model=32, n_layer=2,
        n_head=4, d_inner=64, num_labels=4,
    ),
    "perceiver-text": hf(
        "PerceiverForSequenceClassification",
        lambda: {"inputs": torch.randint(5, VOCAB, (2, 16))}, num_latents=8, d_latents=32,
        d_model=16, num_self_attends_per_block=2, num_self_attention_heads=4,
        num_cross_attention_heads=4, vocab_size=VOCAB, max_position_embeddings=16, num_labels=4,
    ),
    "canine": hf(
        "CanineForSequenceClassification", tokens(), local_transformer_stride=8,
        num_hash_buckets=64, **BASE,
    ),
    "gpt2": hf(
        "GPT2LMHeadModel", tokens(), vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4,
        n_positions=64, use_cache=False,
    ),
    "gpt2-classifier": hf(
        "GPT2ForSequenceClassification", tokens(), vocab_size=VOCAB, n_embd=32, n_layer=2,
        n_head=4, n_positions=64, use_cache=False, pad_token_id=0, num_labels=4,
    ),
    "openai-gpt": hf(
        "OpenAIGPTLMHeadModel", tokens(), vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4,
        n_positions=64,
    ),
    "opt": hf(
        "OPTForCausalLM", tokens(), use_cache=False, word_embed_proj_dim=16, ffn_dim=64, **BASE
    ),
    "bloom": hf(
        "BloomForCausalLM", tokens(), use_cache=False, vocab_size=VOCAB, hidden_size=32, n_layer=2,
        n_head=4,
    ),
    "gpt-neox": hf("GPTNeoXForCausalLM", tokens(), use_cache=False, **BASE),
    "gptj": hf(
        "GPTJForCausalLM", tokens(), use_cache=False, vocab_size=VOCAB, n_embd=32, n_layer=2,
        n_head=4, rotary_dim=4, n_positions=64,
    ),
    "falcon": hf("FalconForCausalLM", tokens(), use_cache=False, **BASE),
    "llama": hf("LlamaForCausalLM", tokens(), use_cache=False, **LLAMA),
    "qwen2": hf("Qwen2ForCausalLM", tokens(), use_cache=False, **LLAMA),
    "gemma2": hf(
        "Gemma2ForCausalLM", tokens(), use_cache=False, head_dim=8, query_pre_attn_scalar=8,
        sliding_window=8, **LLAMA,
    ),
    "mamba": hf(
        "MambaForCausalLM", tokens(mask=False), use_cache=False, vocab_size=VOCAB, hidden_size=32,
        num_hidden_layers=2, state_size=4,
    ),
    "t5-encoder": hf(
        "T5EncoderModel", tokens(), vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2,
        num_heads=4,
    ),
    "t5-encoder-gated": hf(
        "T5EncoderModel", tokens(), vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2,
        num_heads=4, feed_forward_proj="gated-gelu",
    ),
    "t5": hf(
        "T5ForConditionalGeneration",
        lambda: {**tokens()(), "decoder_input_ids": torch.randint(5, VOCAB, (2, 8))},
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, use_cache=False,
    ),
}  # fmt: skip

AUDIO: dict[str, Builder] = {
    "wav2vec2": hf("Wav2Vec2ForSequenceClassification", wave(), **SPEECH),
    "wav2vec2-stable-ctc": hf(
        "Wav2Vec2ForCTC", wave(), do_stable_layer_norm=True, feat_extract_norm="layer",
        vocab_size=30, **SPEECH,
    ),
    "hubert": hf("HubertForSequenceClassification", wave(), **SPEECH),
    "wavlm": hf(
        "WavLMForSequenceClassification", wave(), num_buckets=16, max_bucket_distance=32, **SPEECH
    ),
    "sew": hf("SEWForSequenceClassification", wave(), **SPEECH),
    "sew-d": hf(
        "SEWDForSequenceClassification", wave(), max_position_embeddings=64, position_buckets=8,
        **SPEECH,
    ),
    "data2vec-audio": hf(
        "Data2VecAudioForSequenceClassification", wave(), conv_pos_kernel_size=5,
        **{**SPEECH, "num_conv_pos_embeddings": 2},
    ),
    "unispeech": hf("UniSpeechForSequenceClassification", wave(), **SPEECH),
    "unispeech-sat": hf("UniSpeechSatForSequenceClassification", wave(), **SPEECH),
    "wav2vec2-conformer": hf(
        "Wav2Vec2ConformerForSequenceClassification", wave(), conv_depthwise_kernel_size=7,
        **SPEECH,
    ),
    "audio-spectrogram-transformer": hf(
        "ASTForAudioClassification", lambda: {"input_values": torch.randn(2, 64, 32)},
        max_length=64, num_mel_bins=32, **TINY,
    ),
    "whisper-encoder": hf(
        "WhisperModel", floats(20, 64), pick="encoder", vocab_size=VOCAB, num_mel_bins=20,
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=32,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    ),
    "whisper-classifier": hf(
        "WhisperForAudioClassification", lambda: {"input_features": torch.randn(2, 20, 64)},
        vocab_size=VOCAB, num_mel_bins=20, d_model=32, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_source_positions=32, num_labels=4, use_weighted_layer_sum=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ),
    "encodec": hf(
        "EncodecModel", floats(1, 1280), pick="encoder",
        num_filters=4, hidden_size=16, codebook_size=16, upsampling_ratios=[4, 2],
        num_lstm_layers=1,
    ),
}  # fmt: skip
