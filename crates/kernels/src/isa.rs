//! Which instructions the kernels use, chosen at run time.
//!
//! The level is read once per kernel call, on the calling thread, and handed to
//! every thread that helps, so one call never mixes two levels.

use std::cell::Cell;
use std::ffi::OsStr;
use std::sync::OnceLock;

/// A level of instructions that this machine is known to have.
///
/// The only ways to get one are detection and [`Isa::PORTABLE`], which is what makes
/// the jump into code compiled for AVX2 sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

/// Environment variable that forces a level: `portable` or `avx2`.
const VARIABLE: &str = "UNWRONG_ISA";

impl Isa {
    /// Plain Rust, whatever the compiler makes of it. Always there.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// AVX2 with FMA and F16C, where the processor has all three.
    #[must_use]
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Some(Self(Level::Avx2));
        }
        None
    }

    /// Every level of this machine, fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::avx2().into_iter().chain([Self::PORTABLE]).collect()
    }

    /// The level that `UNWRONG_ISA` asks for, or the fastest one when it is not set or empty.
    ///
    /// The kernels ignore a value that names no level of this machine; a program calls
    /// this first and shows the message.
    ///
    /// # Errors
    /// A sentence that says what the variable holds and what it may hold here.
    pub fn from_environment() -> Result<Self, String> {
        Self::asked_for(std::env::var_os(VARIABLE).as_deref())
    }

    fn asked_for(value: Option<&OsStr>) -> Result<Self, String> {
        let levels = Self::available();
        // Set to nothing is how scripts unset a variable.
        let value = value.filter(|value| !value.is_empty());
        let Some(value) = value else { return Ok(levels[0]) };
        levels.iter().copied().find(|level| value.to_str() == Some(level.name())).ok_or_else(|| {
            let names: Vec<_> = levels.iter().map(|level| format!("`{}`", level.name())).collect();
            format!(
                "{VARIABLE} is `{}`, which is no instruction level of this machine; it has {}",
                value.to_string_lossy(),
                names.join(" and "),
            )
        })
    }

    /// The level that kernels called from this thread use.
    #[must_use]
    pub fn current() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        FORCED.get().unwrap_or_else(|| {
            *CHOSEN.get_or_init(|| Self::from_environment().unwrap_or(Self::available()[0]))
        })
    }

    /// The name `UNWRONG_ISA` knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
        }
    }

    /// Runs `body` with this level forced for kernels called from this thread.
    ///
    /// For tests and benches, which look at every level in one process.
    pub fn scope<R>(self, body: impl FnOnce() -> R) -> R {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        let _restore = Restore(FORCED.replace(Some(self)));
        body()
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_avx2(self) -> bool {
        self.0 == Level::Avx2
    }
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// Makes one function that picks, by its first argument, which copy of a generic body runs.
///
/// The body is `#[inline(always)]` and generic over [`Simd`](crate::simd::Simd); each copy is
/// compiled with the features of its level.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            if isa.is_avx2() {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the features are enabled for this very function.
                    $body(unsafe { $crate::simd::Avx2::assume() }, $($arg),*)
                }
                // SAFETY: this level only exists after the features were detected.
                return unsafe { avx2($($arg),*) };
            }
            let _ = isa;
            $body($crate::simd::Portable, $($arg),*)
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_a_level_of_this_machine_or_is_refused() {
        assert_eq!(Isa::asked_for(None), Ok(Isa::available()[0]));
        assert_eq!(Isa::asked_for(Some("".as_ref())), Ok(Isa::available()[0]));
        assert_eq!(Isa::asked_for(Some("portable".as_ref())), Ok(Isa::PORTABLE));
        assert_eq!(Isa::asked_for(Some("avx2".as_ref())).ok(), Isa::avx2());
        let refusal = Isa::asked_for(Some("sse9".as_ref())).expect_err("there is no such level");
        assert!(refusal.contains("UNWRONG_ISA is `sse9`"), "{refusal}");
        assert!(refusal.contains("`portable`"), "{refusal}");
    }

    #[test]
    fn scope_forces_a_level_and_gives_it_back() {
        let before = Isa::current();
        Isa::PORTABLE.scope(|| assert_eq!(Isa::current(), Isa::PORTABLE));
        assert_eq!(Isa::current(), before);
    }
}
