//! The low-rank matrices that a training changes.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::error::Result;
use crate::files::FrozenWeight;
use crate::lora::{LayerAdapters, LowRank};

/// The low-rank matrices of one network's layers, by the layer's checkpoint name.
///
/// In the order of their names, whatever order they were made in.
#[derive(Debug, Clone, Default)]
pub struct Trained(BTreeMap<String, Branch>);

/// `y += scale · up · down · dropout(x)` of one layer.
#[derive(Debug, Clone)]
pub struct Branch {
    /// `[rank, in]`, f32.
    pub down: Tensor,
    /// `[out, rank]`, f32.
    pub up: Tensor,
    /// `alpha / rank`.
    pub scale: f64,
    /// What is left out of `x` in this pass.
    pub dropout: Option<Dropout>,
}

/// Numbers of a branch's input that are set to zero in one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// How often, 0 … 1; what is left grows by `1 / (1 − probability)`.
    pub probability: f32,
    /// Decides which: the same seed leaves out the same numbers.
    pub seed: u64,
}

/// The gradients for one layer's matrices, each in the shape of its matrix.
#[derive(Debug, Clone)]
pub struct BranchGradients {
    /// For [`Branch::down`].
    pub down: Tensor,
    /// For [`Branch::up`].
    pub up: Tensor,
}

impl Trained {
    /// What is trained of the layer `name`: its checkpoint key without `.weight`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Branch> {
        self.0.get(name)
    }

    /// Sets what is trained of a layer.
    pub fn insert(&mut self, name: &str, branch: Branch) {
        self.0.insert(name.to_owned(), branch);
    }

    /// Names and matrices, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Branch)> {
        self.0.iter().map(|(name, branch)| (name.as_str(), branch))
    }

    /// Number of layers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing is trained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any branch leaves out numbers at random.
    pub(crate) fn has_dropout(&self) -> bool {
        self.0.values().any(|branch| branch.dropout.is_some())
    }

    /// The matrices without dropout as those of a file, for operations that fuse them in.
    pub(crate) fn adapters(&self) -> Result<LayerAdapters> {
        let frozen = |tensor: &Tensor| -> Result<FrozenWeight> {
            Ok(FrozenWeight::from_f32(&tensor.flatten_all()?.to_vec1::<f32>()?, tensor.dims()))
        };
        let mut adapters = LayerAdapters::default();
        for (name, branch) in self.0.iter().filter(|(_, branch)| branch.dropout.is_none()) {
            let (down, up) = (frozen(&branch.down)?, frozen(&branch.up)?);
            let low_rank = LowRank { down, up, scale: branch.scale as f32 };
            adapters.entry(name).low_rank.push(low_rank);
        }
        Ok(adapters)
    }

    /// The same matrices as variables, whose gradients are tracked.
    pub(crate) fn tracked(&self) -> Result<Self> {
        let tracked =
            |tensor: &Tensor| -> Result<Tensor> { Ok(Var::from_tensor(tensor)?.into_inner()) };
        let branches = self.0.iter().map(|(name, branch)| {
            let (down, up) = (tracked(&branch.down)?, tracked(&branch.up)?);
            Ok((name.clone(), Branch { down, up, ..*branch }))
        });
        Ok(Self(branches.collect::<Result<_>>()?))
    }
}
