//! What attention gives beside its result, and takes beside dense rows.

mod common;

use common::{Random, close, each_isa, same};
use proptest::prelude::*;
use unwrong_kernels::{
    AttentionShape, Tokens, attention, attention_strided, attention_with_log_sum, reference,
};

#[test]
fn queries_keys_and_values_may_share_a_matrix() {
    let shape =
        AttentionShape { batch: 2, query_tokens: 45, key_tokens: 45, heads: 3, head_dim: 20 };
    let (tokens, width) = (2 * 45, 60);
    let mut random = Random(1);
    let all = random.numbers(tokens * 3 * width);
    let part = |index: usize| -> Vec<f32> {
        all.chunks_exact(3 * width)
            .flat_map(|row| &row[index * width..][..width])
            .copied()
            .collect()
    };
    let (q, k, v) = (part(0), part(1), part(2));
    let qkv = [0, 1, 2].map(|i| Tokens { values: &all[i * width..], stride: 3 * width });
    each_isa(|| {
        for causal in [false, true] {
            let expected = attention(&q, &k, &v, shape, 0.4, causal);
            same(&attention_strided(qkv, shape, 0.4, causal), &expected);
        }
    });
}

#[test]
#[should_panic(expected = "keys of an attention")]
fn a_stride_that_leads_out_of_the_matrix_is_a_bug_of_the_caller() {
    let shape = AttentionShape { batch: 1, query_tokens: 2, key_tokens: 2, heads: 1, head_dim: 4 };
    let dense = Tokens { values: &[1.0; 8], stride: 4 };
    let _ = attention_strided([dense, Tokens { stride: 8, ..dense }, dense], shape, 1.0, false);
}

#[test]
fn what_is_not_a_number_does_not_vanish() {
    let shape = AttentionShape { batch: 1, query_tokens: 3, key_tokens: 9, heads: 1, head_dim: 8 };
    let mut random = Random(2);
    let mut q = random.numbers(24);
    q[9] = f32::NAN;
    let [k, v] = [(); 2].map(|()| random.numbers(72));
    each_isa(|| {
        let out = attention(&q, &k, &v, shape, 1.0, false);
        assert!(out[8..16].iter().all(|x| x.is_nan()), "{out:?}");
        assert!(out[..8].iter().chain(&out[16..]).all(|x| x.is_finite()), "{out:?}");
    });
}

#[test]
fn blocks_of_keys_may_begin_inside_a_block_of_queries() {
    // A block has 120 keys of so wide a head, and queries come in sixteens.
    let shape =
        AttentionShape { batch: 1, query_tokens: 300, key_tokens: 300, heads: 1, head_dim: 200 };
    let mut random = Random(4);
    let [q, k, v] = [(); 3].map(|()| random.numbers(300 * 200));
    let expected = reference::attention(&q, &k, &v, shape, 0.2, true);
    each_isa(|| close(&attention(&q, &k, &v, shape, 0.2, true), &expected, 1100));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn log_sums_equal_the_reference(
        batch in 1_usize..3, heads in 1_usize..3,
        head_dim in prop::sample::select(vec![1_usize, 7, 16, 64]),
        query_tokens in 1_usize..40, key_tokens in prop_oneof![1_usize..40, Just(400)],
        causal: bool, seed: u64,
    ) {
        let query_tokens = if causal { key_tokens } else { query_tokens };
        let shape = AttentionShape { batch, query_tokens, key_tokens, heads, head_dim };
        let mut random = Random(seed);
        let q = random.numbers(batch * query_tokens * heads * head_dim);
        let [k, v] = [(); 2].map(|()| random.numbers(batch * key_tokens * heads * head_dim));
        let expected = reference::attention_log_sums(&q, &k, shape, 1.5, causal);
        each_isa(|| {
            let (out, log_sums) = attention_with_log_sum(&q, &k, &v, shape, 1.5, causal);
            same(&out, &attention(&q, &k, &v, shape, 1.5, causal));
            close(&log_sums, &expected, 4 * head_dim + key_tokens);
        });
    }
}
