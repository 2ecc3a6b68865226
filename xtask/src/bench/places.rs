//! Where everything is that a measurement runs, made where it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::Result;

use super::options::Options;
use super::rows::{Row, Variant, Who};
use crate::parity::{new_python, pinned_python};
use crate::{cargo, root, run};

/// Programs, the model, and small files of the bench.
#[derive(Debug)]
pub(super) struct Places {
    unwrong: PathBuf,
    model: PathBuf,
    /// Absent where nothing asks for it.
    python: Option<PathBuf>,
    /// Or why there is none.
    sdcpp_python: Result<PathBuf, String>,
    /// Where what the bench makes for itself goes.
    pub(super) folder: PathBuf,
}

impl Places {
    /// Builds and makes what the rows need.
    pub(super) fn prepare(options: &Options) -> Result<Self> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let target = root().join(target);
        let folder = target.join("bench");
        fs::create_dir_all(&folder)?;
        run(cargo().args(["build", "--release", "--package", "unwrong-cli"]))?;

        let mut places = Self {
            unwrong: target.join("release").join(format!("unwrong{}", env::consts::EXE_SUFFIX)),
            model: root().join(options.model.clone().unwrap_or_else(|| "full-size".into())),
            python: options.python.clone(),
            sdcpp_python: Err("not asked for".to_owned()),
            folder,
        };
        if options.peers.contains(&Who::Sdcpp) {
            places.sdcpp_python = match &options.sdcpp_python {
                Some(python) => Ok(python.clone()),
                None => sdcpp_python(&places.folder).map_err(|error| format!("{error:#}")),
            };
        }
        let checkpoint = places.sdcpp_python.is_ok() && !places.checkpoint().is_file();
        let torch = options.peers.contains(&Who::Torch);
        let loras = options.rows.iter().any(|row| row.lora.is_some());
        if places.python.is_none() && (torch || loras || checkpoint || !places.has_model()) {
            places.python = Some(pinned_python()?);
        }
        places.make_model()?;
        places.make_loras(&options.rows)?;
        if checkpoint {
            let mut script = places.script("make_single_file.py");
            script.arg("--model").arg(places.model.join("base"));
            run(script.arg("--out").arg(places.checkpoint()))?;
        }
        Ok(places)
    }

    /// The base in one file, another 7 GB: stable-diffusion.cpp takes a folder for SD 1.5.
    fn checkpoint(&self) -> PathBuf {
        self.model.join("base.safetensors")
    }

    fn has_model(&self) -> bool {
        let mut configs = ["base", "refiner"].map(|part| self.model.join(part)).into_iter();
        configs.all(|part| part.join("unet").join("config.json").is_file())
    }

    /// Random weights of SDXL's real size, 11 GB.
    fn make_model(&self) -> Result<()> {
        if self.has_model() {
            return Ok(());
        }
        run(self.script("full_size.py").arg("make").arg(&self.model))
    }

    /// Made anew every time: they are of this model.
    fn make_loras(&self, rows: &[&Row]) -> Result<()> {
        for rank in rows.iter().filter_map(|row| row.lora) {
            let mut script = self.script("bench_lora.py");
            run(script.arg(self.model.join("base")).arg(&self.folder).arg(rank.to_string()))?;
        }
        Ok(())
    }

    fn lora(&self, rank: u32) -> PathBuf {
        self.folder.join(format!("lora-rank-{rank}.safetensors"))
    }

    /// What measures a row, or why it cannot be measured.
    pub(super) fn command(
        &self,
        row: &Row,
        who: Who,
        variant: &Variant,
    ) -> Result<Command, String> {
        let mut command = match who {
            Who::Ours => {
                let mut command = Command::new(&self.unwrong);
                command.args(["bench", row.work, "--json"]).args(row.extra);
                if let Some(rank) = row.lora {
                    command.arg("--lora").arg(self.lora(rank));
                }
                command
            }
            Who::Torch => {
                let mut command = self.script("bench_torch.py");
                command.arg(row.work).args(variant.flags);
                command
            }
            Who::Sdcpp => {
                let mut command = Command::new(self.sdcpp_python.clone()?);
                command.current_dir(root()).args(["parity/bench_sdcpp.py", row.work]);
                command
            }
        };
        let model = if who == Who::Sdcpp { &self.checkpoint() } else { &self.model };
        command.args(["--size", row.size]).arg("--model").arg(model);
        Ok(command)
    }

    /// A script of `parity/`, in the Python that has the oracles.
    fn script(&self, name: &str) -> Command {
        let python = self.python.as_ref().expect("whoever runs a script has asked for Python");
        let mut command = Command::new(python);
        command.current_dir(root()).arg(Path::new("parity").join(name));
        command
    }
}

/// A Python with stable-diffusion.cpp, which is built here: 10 minutes on two cores.
fn sdcpp_python(folder: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv-sdcpp");
    let python = new_python(&venv)?;
    let requirements = root().join("parity/requirements-sdcpp.txt");
    let mut pip = Command::new(&python);
    run(pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    Ok(python)
}
