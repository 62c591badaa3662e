"""Which output is compared, and what an embedding is."""

from __future__ import annotations

import pytest
import torch

from bitwright.errors import DataError
from bitwright.graph.answers import EMBEDDING, SCORES, SPANS, Answer, answer_of, embedding
from bitwright.numerics.losses import kl_divergence
from networks import normal

A, B, C = normal(2, 5), normal(2, 5, seed=1), normal(2, 5, 3, seed=2)
COUNTS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("result", "kind", "leaves"),
    [
        (A, SCORES, (0,)),
        ((COUNTS, (A, B)), SCORES, (1,)),
        ({"hidden": C, "logits": A}, SCORES, (1,)),
        ({"last_hidden_state": C, "pooler_output": A}, EMBEDDING, (0,)),
        ({"pooler_output": A, "last_hidden_state": C}, EMBEDDING, (1,)),
        ({"loss": None, "start_logits": A, "end_logits": B}, SPANS, (1, 2)),
        ({"logits_per_image": A, "text_embeds": B}, SCORES, (0,)),
        ({"prediction": A}, SCORES, (0,)),
        (COUNTS, SCORES, ()),
    ],
)
def test_the_names_of_the_outputs_tell(result, kind, leaves):
    assert answer_of(result) == Answer(kind, leaves)


def test_spans_are_two_rows_a_sample():
    answer = answer_of({"start_logits": A, "end_logits": B})
    assert torch.equal(answer.of((A, B)), torch.stack([A, B], 1))


def test_no_float_output():
    with pytest.raises(DataError, match="returns no float tensor"):
        answer_of(COUNTS).of(COUNTS)


def test_an_embedding_is_the_mean_over_tokens_that_count():
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    got = embedding(C, mask)
    want = torch.stack([C[0, :3].mean(0), C[1].mean(0)])
    cosine = torch.nn.functional.cosine_similarity(got, want)
    assert torch.allclose(cosine, torch.ones(2)) and got.shape == (2, 3)
    assert torch.allclose(got.square().mean(-1), torch.ones(2), atol=1e-5)
    assert torch.allclose(embedding(C[:1, :3]), got[:1], atol=1e-6)  # no padding, no mask


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (4, 6, 2, 2), (4,)])
def test_embeddings_of_any_rank(shape):
    assert embedding(normal(*shape)).shape[0] == 4


def test_divergence_of_near_embeddings_is_about_one_minus_their_cosine():
    a = embedding(normal(400, 256))
    b = embedding(a + 0.1 * normal(400, 256, seed=1))
    distance = 1 - torch.nn.functional.cosine_similarity(a, b).mean()
    assert float(kl_divergence(a, b)) == pytest.approx(float(distance), rel=0.1)
