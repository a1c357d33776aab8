"""Rows of encoders and rerankers; families.py says what a row holds. The answer of a model is all states of the
last layer and, behind them in one vector, the pooled state or the score."""
import json

import numpy as np
import torch
from safetensors.numpy import save_file

from families import GEMMA_ROPE, HEAD_NORM, MLP, NORMS, QKV, SANDWICH, WINDOW, full, tokenizer

N_HIDDEN = 32
BERT_TOP = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
            "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm"}
BERT_LAYER = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
              "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
              "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
YES, NO = 40, 41


def encoder(name, arch, config, change, model, pool, what, **more):
    base = dict(hidden_size=N_HIDDEN, num_attention_heads=2, num_hidden_layers=3)
    row = dict(name=name, arch=arch, what=what, config=(config, {**base, **change}), model=model,
               answer=lambda m, ids: states(m, ids, pool), saved=saved_states, tokenizer=wordpiece)
    return {**row, **more}


def mean(hidden):
    return hidden.mean(0)


def last(hidden):
    return hidden[-1]


def states(model, ids, pool):
    """All states of the last layer and, behind them in one vector, the pooled state or the score."""
    if pool is None:
        out = model(ids, output_hidden_states=True)
        return torch.cat([out.hidden_states[-1][0].flatten(), out.logits[0]])
    hidden = model(ids).last_hidden_state[0]
    return torch.cat([hidden.flatten(), pool(hidden)])


def qwen_rank(model, ids):
    out = model(ids, output_hidden_states=True)
    share = out.logits[0, -1, [YES, NO]].softmax(0)[:1]
    return torch.cat([out.hidden_states[-1][0].flatten(), share])


def saved_states(want, keep, exact):
    n = N_HIDDEN * (max(keep) + 1)
    hidden = want[:n].reshape(-1, N_HIDDEN)
    return {"rows": keep, "states": [[exact(x) for x in hidden[k]] for k in keep],
            "pooled": [exact(x) for x in want[n:]]}


def gemma_dense(cfg):
    rng = np.random.default_rng(20261129)
    return {"dense_2": (rng.standard_normal((64, N_HIDDEN)) / N_HIDDEN ** 0.5).astype(np.float32),
            "dense_3": (rng.standard_normal((N_HIDDEN, 64)) / 64 ** 0.5).astype(np.float32)}


def gemma_pool(hidden):
    for w in gemma_dense(None).values():
        hidden = hidden if hidden.dim() == 1 else hidden.mean(0)
        hidden = torch.from_numpy(w).to(hidden.dtype) @ hidden
    return hidden


def pooling_files(mode):
    """The files by which sentence-transformers says how a model pools."""
    def save(path, model):
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{mode}" + (
            "_tokens" if mode == "mean" else ""): True}))
        (path / "modules.json").write_text(json.dumps([{"idx": 1, "path": "1_Pooling", "type": "x.Pooling"}]))
    return save


def gemma_files(path, model):
    pooling_files("mean")(path, model)
    mods = json.loads((path / "modules.json").read_text())
    for i, (k, w) in enumerate(gemma_dense(None).items()):
        d = path / f"{i + 2}_Dense"
        d.mkdir()
        (d / "config.json").write_text(json.dumps({"in_features": w.shape[1], "out_features": w.shape[0]}))
        save_file({"linear.weight": w}, d / "model.safetensors")
        mods.append({"idx": i + 2, "path": d.name, "type": "x.Dense"})
    (path / "modules.json").write_text(json.dumps(mods))


def cut_positions(key, t):
    return [(key, t[2:] if key.endswith("position_embeddings.weight") else t)]


def qwen_cls(key, t):
    if key == "model.embed_tokens.weight":
        return [(key, t), ("cls.output.weight", t[[YES, NO]])]
    return [(key, t)]


def wordpiece(cfg):
    """BERT's special tokens, then single characters: at the start of a word (U+2581) and inside of one."""
    chars = [chr(33 + i) for i in range(46)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["\u2581" + c for c in chars], *chars][:cfg.vocab_size]
    return {"tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "jina-v2-en", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 4 + [1] * (len(tokens) - 4), "tokenizer.ggml.token_type_count": 2,
            "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.unknown_token_id": 1,
            "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.seperator_token_id": 3}


def unigram(cfg):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *[chr(33 + i) for i in range(cfg.vocab_size - 5)]]
    return {"tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 4 + [-float(i) for i in range(1, len(tokens) - 3)],
            "tokenizer.ggml.token_type": [3, 3, 3, 2] + [1] * (len(tokens) - 4),
            "tokenizer.ggml.token_type_count": 2, "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.ggml.remove_extra_whitespaces": True, "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.padding_token_id": 1, "tokenizer.ggml.seperator_token_id": 2}


ROWS = [
    encoder("bert", "bert", "BertConfig", {}, "BertModel", mean,
            "LayerNorm after each branch, learned positions, erf GELU, all biases; mean pooling",
            top=BERT_TOP, prefix="encoder.layer.", layer=BERT_LAYER, skip=("pooler.",), save_more=pooling_files("mean"),
            keys={"attention.causal": False, "pooling_type": 1}, rules={"gelu": dict(hidden_act="gelu_new")},
            least=1e-10),
    encoder("bert-rank", "bert", "XLMRobertaConfig", dict(num_labels=1, pad_token_id=1),
            "XLMRobertaForSequenceClassification", None,
            "XLM-R: positions begin after the padding id (cut off in the file); score = cls.output(tanh(cls(x of the "
            "first token)))", score=True,
            top={**{"roberta." + k: v for k, v in BERT_TOP.items()}, "classifier.dense": "cls",
                 "classifier.out_proj": "cls.output"},
            prefix="roberta.encoder.layer.", layer=BERT_LAYER, split=cut_positions,
            keys={"attention.causal": False, "pooling_type": 4}, peer=False, tokenizer=unigram),
    encoder("nomic-bert", "nomic-bert", "NomicBertConfig", {}, "NomicBertModel", mean,
            "LayerNorm after each branch, NEOX rope, SwiGLU, no biases of matrices; mean pooling", peer=False,
            top={"embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
                 "emb_ln": "token_embd_norm"},
            prefix="encoder.layers.",
            layer={"attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm1": "attn_output_norm",
                   "norm2": "layer_output_norm", "mlp.fc11": "ffn_up", "mlp.fc12": "ffn_gate", "mlp.fc2": "ffn_down"},
            keys={"attention.causal": False, "pooling_type": 1, "attention.key_length": None,
                  "attention.value_length": None},
            rules={"rope base": dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})}),
    encoder("modern-bert", "modern-bert", "ModernBertConfig",
            dict(num_hidden_layers=4, local_attention=2 * WINDOW, norm_eps=1e-5, layer_norm_eps=1e-5, cls_token_id=1,
                 sep_token_id=2,
                 rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                                  "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
            "ModernBertModel", mean,
            "LayerNorm without bias before each branch, none in layer 0; GeGLU in one matrix (erf); layers 0 and 3 full "
            "with rope base 160000, 1 and 2 see 8 tokens to each side with 10000; mean pooling",
            top={"embeddings.tok_embeddings": "token_embd", "embeddings.norm": "token_embd_norm",
                 "final_norm": "output_norm"},
            prefix="layers.",
            layer={"attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "attn.Wqkv": "attn_qkv", "attn.Wo": "attn_output",
                   "mlp.Wi": "ffn_up", "mlp.Wo": "ffn_down"},
            save_more=pooling_files("mean"), tokenizer=tokenizer,
            peer_keys_differ={"attention.sliding_window_pattern": "written from a key that transformers 5 drops"},
            keys=lambda c: {"attention.causal": False, "pooling_type": 1,
                            "attention.sliding_window": c.local_attention, "attention.sliding_window_pattern": 3,
                            "rope.scaling.type": "none", "vocab_size": c.vocab_size, "hidden_activation": "gelu",
                            "classifier.pooling_type": 2},
            rules={"window": full(4), "window of 6": dict(local_attention=12), "window of 10": dict(local_attention=20),
                   "two bases": dict(rope_parameters={k: {"rope_type": "default", "rope_theta": 160000.0}
                                                      for k in ("full_attention", "sliding_attention")})}),
    encoder("gemma-embedding", "gemma-embedding", "Gemma3TextConfig",
            dict(num_hidden_layers=7, head_dim=16, num_key_value_heads=1, intermediate_size=48, query_pre_attn_scalar=16,
                 sliding_window=2 * WINDOW, use_bidirectional_attention=True, rope_parameters=GEMMA_ROPE,
                 rms_norm_eps=1e-6),
            "Gemma3TextModel", gemma_pool,
            "gemma3's block without a causal mask; layer 5 full, the others see 8 tokens to each side; mean pooling, "
            "then dense_2 and dense_3",
            top={"embed_tokens": "token_embd", "norm": "output_norm"}, prefix="layers.", plus_one=True,
            layer={**SANDWICH, **QKV, **HEAD_NORM, **MLP}, save_more=gemma_files, tokenizer=tokenizer,
            peer_flags=["--sentence-transformers-dense-modules"],
            more_tensors=lambda cfg: [(k + ".weight", v) for k, v in gemma_dense(cfg).items()],
            keys=lambda c: {"attention.sliding_window": 2 * WINDOW, "pooling_type": 1, "dense_2_feat_in": 32,
                            "dense_2_feat_out": 64, "dense_3_feat_in": 64, "dense_3_feat_out": 32},
            rules={"window": full(7), "window of 7": dict(sliding_window=14), "window of 9": dict(sliding_window=18)}),
    encoder("qwen3-embedding", "qwen3", "Qwen3Config", dict(head_dim=32, num_key_value_heads=1, num_hidden_layers=3),
            "Qwen3Model", last, "qwen3 with the state of the last token after the final norm",
            top={"embed_tokens": "token_embd", "norm": "output_norm"}, prefix="layers.",
            layer={**NORMS, **QKV, **HEAD_NORM, **MLP}, save_more=pooling_files("lasttoken"), tokenizer=tokenizer,
            keys={"pooling_type": 3}),
    encoder("qwen3-rank", "qwen3", "Qwen3Config",
            dict(head_dim=32, num_key_value_heads=1, num_hidden_layers=3, tie_word_embeddings=True),
            "Qwen3ForCausalLM", None, score=True, peer=False, tokenizer=tokenizer,
            what="qwen3 as a reranker: cls.output holds the rows of the tokens 'yes' and 'no', the score is the share of "
                 "'yes' in the softmax of the two at the last token",
            answer=qwen_rank, top={"cls.output": "cls.output"}, split=qwen_cls,
            layer={**NORMS, **QKV, **HEAD_NORM, **MLP}, keys={"pooling_type": 4}),
]
