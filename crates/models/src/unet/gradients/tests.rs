use candle_core::Device;

use super::*;
use crate::files::{Folder, ModelParts};
use crate::lora::{Branch, BranchGradients, Dropout, LayerAdapters, Targets};
use crate::text_encoder::TextEncoder;

fn numbers(count: usize, scale: f32) -> Vec<f32> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() * scale).collect()
}

fn tensor(shape: &[usize], scale: f32) -> candle_core::Result<Tensor> {
    Tensor::from_vec(numbers(shape.iter().product(), scale), shape, &Device::Cpu)
}

/// The demo model's networks, and a batch of two.
struct Case {
    targets: Targets,
    unet: Unet,
    encoders: [(Network, TextEncoder); 2],
    /// An odd height: the way up meets a size that is not the double.
    latents: Tensor,
    ids: Vec<Vec<u32>>,
    prompt_embeds: Tensor,
    pooled_embeds: Tensor,
    time_ids: Tensor,
    /// The loss's gradient.
    slope: Tensor,
}

impl Case {
    fn open() -> Result<Self> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/model/base");
        let parts = ModelParts::open_folder(&Folder::disk(folder))?;
        let load = |parts: &Option<_>| {
            let (config, weights) = parts.as_ref().expect("the demo has both encoders");
            TextEncoder::load(config, weights)
        };
        let unet = Unet::load(&parts.unet.0, &parts.unet.1)?;
        let config = unet.config();
        let pooled =
            config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim;
        // Texts that end in different places.
        let row = |end: u32| (0..77).map(|t| if t < end { 320 + t } else { 49_407 }).collect();
        Ok(Self {
            targets: Targets::of(&parts),
            encoders: [
                (Network::TextEncoder, load(&parts.text_encoder)?),
                (Network::TextEncoder2, load(&parts.text_encoder_2)?),
            ],
            latents: tensor(&[2, 10, 8, 4], 1.0)?,
            ids: vec![row(5), row(40)],
            prompt_embeds: tensor(&[2, 77, config.cross_attention_dim], 1.0)?,
            pooled_embeds: tensor(&[2, pooled], 1.0)?,
            time_ids: tensor(&[2, 6], 100.0)?,
            slope: tensor(&[2, 10, 8, 4], 1.0)?,
            unet,
        })
    }

    /// Matrices for the layers that `takes` says; with `dropout` of every other one.
    fn trained(
        &self,
        dropout: Option<f32>,
        takes: impl Fn(Network, &str) -> bool,
    ) -> Result<Trained> {
        let mut trained = Trained::default();
        let layers = Network::ALL.into_iter().flat_map(|network| {
            self.targets.iter(network).map(move |(name, shape)| (network, name, shape))
        });
        let layers = layers.filter(|(network, name, _)| takes(*network, name));
        for (number, (network, name, shape)) in layers.enumerate() {
            let mut down = shape.to_vec();
            down[0] = 2;
            let mut up = vec![1; shape.len()];
            up[..2].copy_from_slice(&[shape[0], 2]);
            let branch = Branch {
                down: tensor(&down, 0.1)?,
                up: tensor(&up, 0.1)?,
                scale: 1.5,
                dropout: dropout
                    .filter(|_| number % 2 == 0)
                    .map(|probability| Dropout { probability, seed: number as u64 }),
            };
            trained.insert(network, name, branch);
        }
        Ok(trained)
    }

    fn readings(&self) -> [Reading<'_>; 2] {
        self.encoders.each_ref().map(|(network, encoder)| Reading {
            network: *network,
            encoder,
            ids: &self.ids,
        })
    }

    fn features(&self) -> Told<'_> {
        let (prompt_embeds, pooled_embeds) = (&self.prompt_embeds, &self.pooled_embeds);
        Told::Features { prompt_embeds, pooled_embeds }
    }

    fn pass<'a>(&'a self, trained: &'a Trained, told: Told<'a>) -> TrainingPass<'a> {
        let Self { latents, time_ids, .. } = self;
        let timesteps = &[300.0, 700.0];
        TrainingPass { ops: Ops::Cpu, trained, latents, timesteps, told, time_ids, keep: 0 }
    }

    fn gradients(&self, pass: &TrainingPass<'_>) -> Result<Gradients> {
        self.unet.gradients(pass, |_| Ok(self.slope.clone()))
    }

    /// Gradients with the whole graph in memory, and no unit computed twice.
    fn plain(&self, pass: &TrainingPass<'_>) -> Result<Gradients> {
        let none = LayerAdapters::default();
        let tracked = pass.trained.tracked()?;
        let run = |network| {
            let training = Some(Training { trained: &tracked, network, tape: None });
            Run { training, ..Run::new(Ops::Reference, &none) }
        };
        let head = self.unet.head(pass, run)?;
        let prepared = head.prepared();
        let mut kept = Kept::default();
        let mut hidden = pass.latents.clone();
        for unit in self.unet.units() {
            let inputs = kept.inputs(unit, hidden)?;
            hidden = unit.forward(&run(Network::Unet), inputs, head.context(&prepared))?;
        }
        let mut store = (hidden * &self.slope)?.sum_all()?.backward()?;
        let mut gradients = Gradients::default();
        for (network, name, branch) in tracked.iter() {
            let mut take = |of: &Tensor| store.remove(of).expect("every matrix has a gradient");
            let (down, up) = (take(&branch.down), take(&branch.up));
            gradients.insert(network, name, BranchGradients { down, up });
        }
        Ok(gradients)
    }

    /// All ways to the gradients of a pass, and any budget, give the same.
    fn all_ways_agree(&self, trained: &Trained, told: Told<'_>) -> Result<()> {
        let pass = self.pass(trained, told);
        let expected = self.plain(&pass)?;
        for ops in [Ops::Reference, Ops::Cpu] {
            let found = self.gradients(&TrainingPass { ops, ..pass })?;
            assert_eq!(found.len(), trained.len());
            for (network, name, expected) in expected.iter() {
                let found = found.get(network, name).expect("every matrix has a gradient");
                for (found, expected) in [(&found.down, &expected.down), (&found.up, &expected.up)]
                {
                    let length = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
                    let off = length(&(found - expected)?)? / length(expected)?;
                    assert!(off < 5e-5, "{network:?} {name}, {ops:?}: {off}");
                }
            }
        }

        // A budget of nothing, of half of it, of all: the same bits.
        let bits = |keep| -> Result<Vec<u32>> {
            let mut bits = Vec::new();
            let gradients = self.gradients(&TrainingPass { keep, ..pass })?;
            for (_, _, BranchGradients { down, up }) in gradients.iter() {
                for tensor in [down, up] {
                    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                    bits.extend(values.into_iter().map(f32::to_bits));
                }
            }
            Ok(bits)
        };
        let none = bits(0)?;
        assert!(bits(1_200_000)? == none && bits(usize::MAX / 2)? == none);
        Ok(())
    }
}

/// The first encoder's last layer leads to nothing.
fn is_read(network: Network, name: &str) -> bool {
    network != Network::TextEncoder || !name.contains(".layers.2.")
}

#[test]
fn checkpointed_kept_and_plain_gradients_are_one() -> Result<()> {
    let case = Case::open()?;
    for dropout in [None, Some(0.2)] {
        let embeds = |name: &str| name.contains("time_emb") || name.contains("add_emb");
        let takes = |network, name: &str| network == Network::Unet && !embeds(name);
        case.all_ways_agree(&case.trained(dropout, takes)?, case.features())?;
    }
    Ok(())
}

#[test]
fn gradients_reach_the_text_encoders_and_the_embeddings() -> Result<()> {
    let case = Case::open()?;
    for dropout in [None, Some(0.2)] {
        let trained = case.trained(dropout, is_read)?;
        let of = |network| trained.iter().filter(|(of, ..)| *of == network).count();
        assert!(Network::ALL.into_iter().all(|network| of(network) > 0));
        case.all_ways_agree(&trained, Told::Captions(&case.readings()))?;
    }
    Ok(())
}

#[test]
fn encoders_alone_are_trained_through_a_frozen_unet() -> Result<()> {
    let case = Case::open()?;
    let takes = |network, name: &str| network != Network::Unet && is_read(network, name);
    case.all_ways_agree(&case.trained(None, takes)?, Told::Captions(&case.readings()))
}

#[test]
fn embeddings_alone_are_trained_with_the_rest_frozen() -> Result<()> {
    let case = Case::open()?;
    let takes = |network, name: &str| {
        network == Network::Unet && (name.contains("time_emb") || name.contains("add_emb"))
    };
    case.all_ways_agree(&case.trained(None, takes)?, case.features())
}
