//! The low-rank matrices that a training changes.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::error::Result;
use crate::files::FrozenWeight;
use crate::lora::{Adapters, LowRank, Network};

/// One value for each of some layers, by network and by the layer's checkpoint name.
///
/// In the order of networks and names, whatever order they were made in.
#[derive(Debug, Clone)]
pub struct ByLayer<T>(BTreeMap<Network, BTreeMap<String, T>>);

/// What is trained: the low-rank matrices of layers.
pub type Trained = ByLayer<Branch>;

/// The gradients for everything that is trained and that the loss depends on.
pub type Gradients = ByLayer<BranchGradients>;

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

impl<T> Default for ByLayer<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> ByLayer<T> {
    /// The value of the layer `name`: its checkpoint key without `.weight`.
    #[must_use]
    pub fn get(&self, network: Network, name: &str) -> Option<&T> {
        self.0.get(&network)?.get(name)
    }

    /// Sets the value of a layer.
    pub fn insert(&mut self, network: Network, name: &str, value: T) {
        self.0.entry(network).or_default().insert(name.to_owned(), value);
    }

    /// All layers with their values, sorted by network and name.
    pub fn iter(&self) -> impl Iterator<Item = (Network, &str, &T)> {
        self.0.iter().flat_map(|(network, layers)| {
            layers.iter().map(|(name, value)| (*network, name.as_str(), value))
        })
    }

    /// Number of layers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// There are no layers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Trained {
    /// Whether any branch leaves out numbers at random.
    pub(crate) fn has_dropout(&self) -> bool {
        self.iter().any(|(_, _, branch)| branch.dropout.is_some())
    }

    /// The matrices without dropout as those of a file, for operations that fuse them in.
    pub(crate) fn adapters(&self) -> Result<Adapters> {
        let frozen = |tensor: &Tensor| -> Result<FrozenWeight> {
            Ok(FrozenWeight::from_f32(&tensor.flatten_all()?.to_vec1::<f32>()?, tensor.dims()))
        };
        let mut adapters = Adapters::default();
        for (network, name, branch) in self.iter().filter(|(.., branch)| branch.dropout.is_none()) {
            let (down, up) = (frozen(&branch.down)?, frozen(&branch.up)?);
            let low_rank = LowRank { down, up, scale: branch.scale as f32 };
            adapters.of_mut(network).entry(name).low_rank.push(low_rank);
        }
        Ok(adapters)
    }

    /// The same matrices as variables, whose gradients are tracked.
    pub(crate) fn tracked(&self) -> Result<Self> {
        let tracked =
            |tensor: &Tensor| -> Result<Tensor> { Ok(Var::from_tensor(tensor)?.into_inner()) };
        let mut variables = Self::default();
        for (network, name, branch) in self.iter() {
            let (down, up) = (tracked(&branch.down)?, tracked(&branch.up)?);
            variables.insert(network, name, Branch { down, up, ..*branch });
        }
        Ok(variables)
    }
}
