//! What is measured: the rows of the table, and how much each computes.

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Torch,
    Sdcpp,
}

impl Who {
    /// The word in the JSON lines, and behind `--peers`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "unwrong",
            Self::Torch => "torch",
            Self::Sdcpp => "sdcpp",
        }
    }
}

/// One way to run PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) flags: &'static [&'static str],
}

/// The first one is what a row gets for which no other was tried.
pub(super) const VARIANTS: [&Variant; 3] = [
    &Variant { name: "default", flags: &[] },
    &Variant { name: "channels_last", flags: &["--layout", "channels_last"] },
    &Variant { name: "compile", flags: &["--compile"] },
];

/// How the variant of PyTorch is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// By trying each on this row.
    Itself,
    /// The one that is best for another row.
    As(&'static str),
    /// There is nothing to choose.
    Never,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Row {
    /// What is typed for it, and its name in the JSON lines.
    pub(super) name: &'static str,
    /// What the table calls it.
    pub(super) title: &'static str,
    /// The row of `unwrong bench` and of the peers' scripts.
    pub(super) work: &'static str,
    pub(super) size: &'static str,
    /// What only our own program is told besides.
    pub(super) extra: &'static [&'static str],
    /// Rank of the LoRA on all attention modules.
    pub(super) lora: Option<u32>,
    /// Additions and multiplications; absent where most of the time is no arithmetic.
    pub(super) gflop: Option<f64>,
    pub(super) peers: &'static [Who],
    pub(super) probe: Probe,
    /// What it is divided by, where that is not its own peer.
    pub(super) against: Option<(&'static str, Who)>,
    /// Whether the first start does not count.
    pub(super) warm: bool,
}

const BOTH: &[Who] = &[Who::Torch, Who::Sdcpp];

const PLAIN: Row = Row {
    name: "",
    title: "",
    work: "unet",
    size: "512x512",
    extra: &[],
    lora: None,
    gflop: None,
    peers: BOTH,
    probe: Probe::Itself,
    against: None,
    warm: false,
};

/// Counted by `parity/bench_torch.py flops`, torch 2.15.0 and diffusers 0.42.1.
mod gflop {
    pub(super) const UNET_512: f64 = 3_177.557_524_480;
    pub(super) const UNET_1024: f64 = 13_522.472_796_160;
    pub(super) const REFINER_1024: f64 = 14_572.021_874_688;
    pub(super) const DECODE_512: f64 = 2_514.518_933_504;
    pub(super) const DECODE_1024: f64 = 10_470.392_594_432;
    pub(super) const ENCODE_1024: f64 = 4_878.950_727_680;
    pub(super) const TEXT: f64 = 222.323_220_480;
    pub(super) const PICTURE: f64 = TEXT + 2.0 * UNET_1024 + REFINER_1024 + DECODE_1024;
}

/// All rows, in the order of the table.
pub(super) static ROWS: &[Row] = &[
    Row {
        name: "unet-512",
        title: "UNet step 512², batch 2",
        gflop: Some(gflop::UNET_512),
        ..PLAIN
    },
    Row {
        name: "unet-1024",
        title: "UNet step 1024², batch 2",
        size: "1024x1024",
        gflop: Some(gflop::UNET_1024),
        probe: Probe::As("unet-512"),
        ..PLAIN
    },
    Row {
        name: "unet-512-int8",
        title: "UNet step 512², int8 linears",
        extra: &["--weights", "int8"],
        gflop: Some(gflop::UNET_512),
        peers: &[],
        against: Some(("unet-512", Who::Torch)),
        ..PLAIN
    },
    Row {
        name: "lora-4",
        title: "UNet step 512², LoRA of rank 4",
        lora: Some(4),
        peers: &[],
        against: Some(("unet-512", Who::Ours)),
        ..PLAIN
    },
    Row {
        name: "lora-64",
        title: "UNet step 512², LoRA of rank 64",
        lora: Some(64),
        peers: &[],
        against: Some(("unet-512", Who::Ours)),
        ..PLAIN
    },
    Row {
        name: "vae-decode-512",
        title: "VAE decode 512²",
        work: "vae-decode",
        gflop: Some(gflop::DECODE_512),
        ..PLAIN
    },
    Row {
        name: "vae-decode-1024",
        title: "VAE decode 1024²",
        work: "vae-decode",
        size: "1024x1024",
        gflop: Some(gflop::DECODE_1024),
        probe: Probe::As("vae-decode-512"),
        ..PLAIN
    },
    Row {
        name: "vae-encode-1024",
        title: "VAE encode 1024²",
        work: "vae-encode",
        size: "1024x1024",
        gflop: Some(gflop::ENCODE_1024),
        probe: Probe::As("vae-decode-512"),
        ..PLAIN
    },
    Row {
        name: "text-encoders",
        title: "Text encoders, 2 × 77 tokens",
        work: "text-encoders",
        gflop: Some(gflop::TEXT),
        ..PLAIN
    },
    Row {
        name: "training-512",
        title: "Training step 512², rank 4",
        work: "training",
        peers: &[Who::Torch],
        probe: Probe::Never,
        ..PLAIN
    },
    Row {
        name: "first-step",
        title: "Exec to first UNet call, 512²",
        work: "first-step",
        probe: Probe::Never,
        warm: true,
        ..PLAIN
    },
    Row {
        name: "picture",
        title: "Picture 1024², 2 + 1 steps",
        work: "picture",
        size: "1024x1024",
        gflop: Some(gflop::PICTURE),
        peers: &[Who::Torch],
        probe: Probe::As("unet-512"),
        ..PLAIN
    },
];

impl Row {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }

    /// The row that shows which variant of PyTorch is best for this one.
    pub(super) fn probe(&self) -> Option<&'static Self> {
        match self.probe {
            _ if !self.peers.contains(&Who::Torch) => None,
            Probe::Itself => Self::named(self.name),
            Probe::As(other) => Self::named(other),
            Probe::Never => None,
        }
    }

    /// Everyone who runs it, of the peers that were asked for.
    pub(super) fn contestants(&self, asked: &[Who]) -> impl Iterator<Item = Who> {
        let peers = self.peers.iter().copied().filter(|who| asked.contains(who));
        std::iter::once(Who::Ours).chain(peers)
    }
}

#[cfg(test)]
mod tests {
    use super::{ROWS, Row};

    #[test]
    fn every_row_that_another_names_is_there() {
        for row in ROWS {
            assert!(std::ptr::eq(Row::named(row.name).expect("its name is its own"), row));
            if let Some((other, _)) = row.against {
                assert!(Row::named(other).is_some(), "{other}");
            }
            assert_eq!(
                row.probe().is_some(),
                row.probe != super::Probe::Never && !row.peers.is_empty()
            );
        }
    }
}
