//! The tensors of one layer, as its file has them, put together.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::files::{Dtype, FrozenWeight, TensorFile};
use crate::lora::change::{Change, Factor, Pair};
use crate::lora::keys::{Network, Role};
use crate::lora::layer::LoraLayer;
use crate::lora::metadata::PeftMetadata;

/// The keys of a layer's tensors, by what they are to it.
pub(super) type Parts<'a> = BTreeMap<Role, &'a str>;

/// Numbers in a weight: four times those of SDXL's largest. What a short file multiplies out to is
/// no larger.
const MOST_NUMBERS: usize = 1 << 27;

const DAMAGED: &str = "the file may be damaged: get it again";

/// Reads one layer; `None` if it is an alpha and nothing else.
pub(super) fn read_layer(
    file: &TensorFile,
    metadata: &PeftMetadata,
    network: Network,
    name: String,
    parts: &Parts<'_>,
) -> Result<Option<LoraLayer>> {
    let reader = Reader { file, parts };
    if parts.keys().all(|role| *role == Role::Alpha) {
        return Ok(None);
    }
    let told = reader.alpha()?;
    let alpha = |rank: usize| told.unwrap_or_else(|| metadata.alpha(network, &name, rank));
    let change = reader.change(alpha)?;
    let (rows, columns) = change.dims();
    if rows.checked_mul(columns).is_none_or(|count| count > MOST_NUMBERS) {
        let key = parts.values().next().copied().unwrap_or_default();
        let reason =
            format!("the layer of `{key}` is {rows} by {columns}, larger than any of SDXL");
        return Err(refuse(file, reason, None));
    }
    let magnitude = reader.magnitude(&change)?;
    let bias = reader.bias(&change)?;
    Ok(Some(LoraLayer { network, name, change, magnitude, bias }))
}

struct Reader<'a> {
    file: &'a TensorFile,
    parts: &'a Parts<'a>,
}

impl Reader<'_> {
    fn has(&self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.parts.contains_key(role))
    }

    /// What is done to the weight.
    fn change(&self, alpha: impl Fn(usize) -> f64) -> Result<Change> {
        use Role::{
            Diff, Down, HadaT1, HadaT2, HadaW1A, HadaW1B, HadaW2A, HadaW2B, LokrT2, LokrW1,
            LokrW1A, LokrW1B, LokrW2, LokrW2A, LokrW2B, Mid, NormDiff, Up, UpBias,
        };
        let low_rank = self.has(&[Down, Up, Mid, UpBias]);
        let loha = self.has(&[HadaW1A, HadaW1B, HadaW2A, HadaW2B, HadaT1, HadaT2]);
        let lokr = self.has(&[LokrW1, LokrW1A, LokrW1B, LokrW2, LokrW2A, LokrW2B, LokrT2]);
        let (full, norm) = (self.has(&[Diff]), self.has(&[NormDiff]));
        if [low_rank, loha, lokr, full, norm].into_iter().filter(|is| *is).count() > 1 {
            let keys: Vec<&str> = self.parts.values().copied().collect();
            return Err(self.refuse(&format!("it mixes methods in one layer: {keys:?}"), None));
        }
        if low_rank {
            self.pair(alpha).map(Change::LowRank)
        } else if loha {
            let first = self.product(HadaW1A, HadaW1B, HadaT1)?;
            let second = self.product(HadaW2A, HadaW2B, HadaT2)?;
            if first.dims() != second.dims() {
                return Err(self.misfit(HadaW1A, HadaW2A));
            }
            let rank = first.rank().unwrap_or(1);
            Ok(Change::LoHa { first, second, alpha: alpha(rank) })
        } else if lokr {
            let first = self.factor(LokrW1, [LokrW1A, LokrW1B], None)?;
            let second = self.factor(LokrW2, [LokrW2A, LokrW2B], Some(LokrT2))?;
            let rank = second.rank().or(first.rank()).unwrap_or(1);
            Ok(Change::LoKr { first, second, alpha: alpha(rank) })
        } else if full {
            Ok(Change::Full(self.need(Diff, &[1, 2, 4])?))
        } else if norm {
            Ok(Change::Norm(self.need(NormDiff, &[1])?))
        } else {
            Ok(Change::Nothing)
        }
    }

    fn pair(&self, alpha: impl Fn(usize) -> f64) -> Result<Pair> {
        let (down, up) = (self.need(Role::Down, &[2, 4])?, self.need(Role::Up, &[2, 4])?);
        let mid = self.get(Role::Mid, &[4])?;
        let rank = down.shape()[0];
        if up.shape()[1] != rank {
            return Err(self.misfit(Role::Down, Role::Up));
        }
        let sides_of_one =
            |weight: &FrozenWeight| weight.shape()[2..].iter().all(|side| *side == 1);
        if let Some(mid) = &mid
            && (mid.shape()[..2] != [rank, rank] || !sides_of_one(&down))
        {
            return Err(self.misfit(Role::Mid, Role::Down));
        }
        if !sides_of_one(&up) {
            return Err(self.misfit(Role::Up, Role::Down));
        }
        Ok(Pair { alpha: alpha(rank), down, up, mid })
    }

    /// A factor that is whole or a product.
    fn factor(&self, whole: Role, [a, b]: [Role; 2], kernel: Option<Role>) -> Result<Factor> {
        let in_parts = self.has(&[a, b]);
        if self.has(&[whole]) == in_parts {
            let keys: Vec<&str> = self.parts.values().copied().collect();
            let reason = format!("each factor of LoKr is whole or a product, but it has {keys:?}");
            return Err(self.refuse(&reason, Some(DAMAGED)));
        }
        match kernel {
            _ if !in_parts => Ok(Factor::Whole(self.need(whole, &[2, 4])?)),
            Some(kernel) => self.product(a, b, kernel),
            None => self.product(a, b, Role::Mid),
        }
    }

    /// A product, with a Tucker kernel if that is there.
    fn product(&self, a: Role, b: Role, kernel: Role) -> Result<Factor> {
        let kernel_of = self.get(kernel, &[4])?;
        let (one, other) = (self.need(a, &[2, 4])?, self.need(b, &[2, 4])?);
        let fits = match &kernel_of {
            None => one.shape()[1] == other.shape()[0],
            Some(kernel) => {
                sides_of_one(&other) && kernel.shape()[..2] == [one.shape()[0], other.shape()[0]]
            }
        };
        if !fits || !sides_of_one(&one) {
            return Err(self.misfit(a, b));
        }
        Ok(match kernel_of {
            None => Factor::Product { a: one, b: other },
            Some(kernel) => Factor::Tucker { kernel, a: one, b: other },
        })
    }

    /// DoRA's lengths, with the axis in which they differ where LyCORIS has it. PEFT's are always
    /// of rows, whatever their axes.
    fn magnitude(&self, change: &Change) -> Result<Option<FrozenWeight>> {
        let found = self.get(Role::Magnitude, &[1, 2, 4])?;
        let in_rows = self.get(Role::RowMagnitude, &[1, 2, 4])?;
        let is_conv = change.kernel().is_some();
        let rows = in_rows.map(|lengths| {
            let axes = if is_conv { 4 } else { 2 };
            let mut shape = vec![1; axes];
            shape[0] = lengths.count();
            lengths.reshaped(&shape)
        });
        let both = [Role::Magnitude, Role::RowMagnitude].map(|role| self.key(role));
        let lengths = match (found, rows) {
            (Some(_), Some(_)) => {
                let reason = format!("`{}` and `{}` are the same", both[0], both[1]);
                return Err(self.refuse(&reason, None));
            }
            (found, rows) => found.or(rows),
        };
        let is_product = !matches!(change, Change::Nothing | Change::Norm(_) | Change::Full(_));
        if lengths.is_some() && !is_product {
            let key = both.into_iter().find(|key| !key.is_empty()).unwrap_or_default();
            return Err(self.refuse(&format!("`{key}` is there without matrices"), Some(DAMAGED)));
        }
        Ok(lengths)
    }

    /// What is added to the bias. The bias of `up` is part of its product, so alpha counts.
    fn bias(&self, change: &Change) -> Result<Option<FrozenWeight>> {
        let all = [Role::BiasDiff, Role::NormBiasDiff, Role::UpBias];
        let found: Vec<Role> = all.into_iter().filter(|role| self.has(&[*role])).collect();
        let Some(&role) = found.first() else { return Ok(None) };
        if let Some(other) = found.get(1) {
            let reason = format!("`{}` and `{}` are the same", self.key(role), self.key(*other));
            return Err(self.refuse(&reason, None));
        }
        let bias = self.need(role, &[1])?;
        let factor = change.factor() as f32;
        if role != Role::UpBias || factor.to_bits() == 1_f32.to_bits() {
            return Ok(Some(bias));
        }
        let values: Vec<f32> = bias.values_f32().iter().map(|value| value * factor).collect();
        Ok(Some(FrozenWeight::from_f32(&values, bias.shape())))
    }

    fn alpha(&self) -> Result<Option<f64>> {
        let Some(key) = self.parts.get(&Role::Alpha) else { return Ok(None) };
        // Single numbers are read in more formats than matrices are.
        let found = self.file.scalar(key);
        if let (None, Some(dtype)) = (found, self.file.dtype(key)) {
            let (path, key) = (self.file.path().to_owned(), (*key).to_owned());
            return Err(Error::WeightDtype { key, found: dtype.to_owned(), path });
        }
        let alpha = found.filter(|alpha| alpha.is_finite());
        let alpha =
            alpha.ok_or_else(|| self.refuse(&format!("`{key}` is not one finite number"), None))?;
        Ok(Some(alpha))
    }

    fn key(&self, role: Role) -> &str {
        self.parts.get(&role).copied().unwrap_or_default()
    }

    fn need(&self, role: Role, axes: &[usize]) -> Result<FrozenWeight> {
        if let Some(weight) = self.get(role, axes)? {
            return Ok(weight);
        }
        let key = self.parts.values().next().copied().unwrap_or_default();
        let reason = format!("`{key}` is there without its other half");
        Err(self.refuse(&reason, Some(DAMAGED)))
    }

    /// A tensor of finite numbers with as many axes as one of `axes`.
    fn get(&self, role: Role, axes: &[usize]) -> Result<Option<FrozenWeight>> {
        let Some(&key) = self.parts.get(&role) else { return Ok(None) };
        let Some(weight) = self.file.weights().get(key) else {
            return Err(Error::WeightDtype {
                key: key.to_owned(),
                found: self.file.dtype(key).unwrap_or_default().to_owned(),
                path: self.file.path().to_owned(),
            });
        };
        if !axes.contains(&weight.shape().len()) {
            let what = if axes == [1] { "one row of numbers" } else { "a matrix" };
            let reason = format!("`{key}` has shape {:?}, which is not {what}", weight.shape());
            return Err(self.refuse(&reason, None));
        }
        if weight.count() == 0 {
            let reason = format!("`{key}` has shape {:?}: it is empty", weight.shape());
            return Err(self.refuse(&reason, Some(DAMAGED)));
        }
        if let Some(index) = first_not_finite(weight) {
            let reason = format!("`{key}` holds a value that is no finite number (at {index})");
            let hint = "its training failed: use another checkpoint of it";
            return Err(self.refuse(&reason, Some(hint)));
        }
        Ok(Some(weight.clone()))
    }

    fn misfit(&self, one: Role, other: Role) -> Error {
        let shape = |role| self.file.shape(self.key(role)).unwrap_or_default();
        let reason = format!(
            "`{}` has shape {:?} and `{}` {:?}: they share no rank",
            self.key(one),
            shape(one),
            self.key(other),
            shape(other)
        );
        self.refuse(&reason, None)
    }

    fn refuse(&self, reason: &str, hint: Option<&str>) -> Error {
        refuse(self.file, reason, hint)
    }
}

/// A kernel of one position.
fn sides_of_one(weight: &FrozenWeight) -> bool {
    weight.shape()[2..].iter().all(|side| *side == 1)
}

/// All bits of the exponent set: infinity or no number at all.
fn first_not_finite(weight: &FrozenWeight) -> Option<usize> {
    let bytes = weight.bytes();
    let mask = match weight.dtype() {
        Dtype::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            return values.iter().position(|value| !f32::from_le_bytes(*value).is_finite());
        }
        Dtype::F16 => 0x7C00,
        Dtype::Bf16 => 0x7F80,
    };
    let (values, _) = bytes.as_chunks::<2>();
    values.iter().position(|value| u16::from_le_bytes(*value) & mask == mask)
}

/// The error that a file cannot be used.
pub(super) fn refuse(file: &TensorFile, reason: impl Into<String>, hint: Option<&str>) -> Error {
    Error::Lora {
        path: file.path().to_owned(),
        reason: reason.into(),
        hint: hint.map(str::to_owned),
    }
}
