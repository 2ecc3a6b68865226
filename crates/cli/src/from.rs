//! `--from PICTURE`: the request that a picture carries, with its files found again.

use std::path::{Path, PathBuf};

use anyhow::Result;
use unwrong::GenerateRequest;
use unwrong::generate::Generation;
use unwrong::picture::{EmbeddedRequest, ModelId, read_metadata};
use unwrong::request::WRONG;

use crate::args::ModelArgs;
use crate::failure::wrong_request;
use crate::printer;
use crate::session::DEMO;

/// A picture and what it says about itself.
pub(crate) struct Source {
    path: PathBuf,
    embedded: EmbeddedRequest,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let embedded = read_metadata(path)?.into_request(path)?;
        Ok(Self { path: path.to_owned(), embedded })
    }

    pub(crate) fn request(&self) -> GenerateRequest {
        self.embedded.request.clone()
    }

    /// Turns the names in the request into paths, save for what the user named himself.
    ///
    /// A picture carries names without folders: files are looked for here, and beside it.
    pub(crate) fn locate(&self, request: &mut GenerateRequest, given: &ModelArgs) -> Result<()> {
        // The picture's split is of its own refiner.
        if given.refiner.as_deref() == Some("none")
            && request.high_noise_fraction == self.embedded.request.high_noise_fraction
        {
            request.high_noise_fraction = None;
        }
        let models = [
            ("model", "--model", &mut request.model, given.model.is_some()),
            ("refiner", "--refiner", &mut request.refiner, given.refiner.is_some()),
            ("VAE", "--vae", &mut request.vae, given.vae.is_some()),
            ("wrong-LoRA", "--wrong-lora", &mut request.wrong_lora, given.wrong_lora.is_some()),
        ];
        for (what, flag, name, given) in models {
            if let Some(name) = name
                && !given
            {
                *name = self.find(what, flag, name)?;
            }
        }
        if given.loras.is_empty() {
            for lora in request.loras.iter_mut().filter(|lora| lora.path != WRONG) {
                lora.path = self.find("LoRA", "--lora", &lora.path)?;
            }
        }
        if given.embeddings.is_empty() {
            for own in &mut request.embeddings {
                let in_folder =
                    given.embedding_dir.as_ref().map(|dir| Path::new(dir).join(&own.path));
                own.path = match in_folder.filter(|path| path.is_file()) {
                    Some(path) => path.to_string_lossy().into_owned(),
                    None => self.find("textual inversion", "--embedding", &own.path)?,
                };
            }
        }
        Ok(())
    }

    fn find(&self, what: &str, flag: &str, name: &str) -> Result<String> {
        if name.contains(['/', '\\']) {
            return Err(wrong_request(
                format!(
                    "`{}` names the {what} `{name}`, expected a name without folders",
                    self.path.display()
                ),
                format!("say where it is with `{flag}`"),
            ));
        }
        if name == DEMO || name == "none" || Path::new(name).exists() {
            return Ok(name.to_owned());
        }
        let beside = self.path.with_file_name(name);
        if beside.exists() {
            return Ok(beside.to_string_lossy().into_owned());
        }
        Err(wrong_request(
            format!(
                "`{}` was made with the {what} `{name}`, which is neither here nor beside it",
                self.path.display()
            ),
            format!("say where it is with `{flag}`"),
        ))
    }

    /// Warns where a file of the same name was another one.
    pub(crate) fn warn_of_changes(&self, generation: &Generation, given: &ModelArgs) {
        let (then, now) = (&self.embedded, &generation.embedded);
        let mut pairs: Vec<(&ModelId, &ModelId)> = Vec::new();
        if given.model.is_none() {
            pairs.push((&then.models.base, &now.models.base));
        }
        if given.refiner.is_none() {
            pairs.extend(then.models.refiner.as_ref().zip(now.models.refiner.as_ref()));
        }
        if given.vae.is_none() {
            pairs.extend(then.models.vae.as_ref().zip(now.models.vae.as_ref()));
        }
        let changed = pairs.into_iter().filter(|(then, now)| then.sha256 != now.sha256);
        let mut names: Vec<&str> = changed.map(|(then, _)| then.name.as_str()).collect();
        if given.loras.is_empty() && given.wrong_lora.is_none() {
            let loras = then.loras.iter().zip(&now.loras);
            let changed = loras.filter(|(then, now)| then.sha256 != now.sha256);
            names.extend(changed.map(|(then, _)| then.name.as_str()));
        }
        if given.embeddings.is_empty() {
            let pairs = then.embeddings.iter().zip(&now.embeddings);
            let changed = pairs.filter(|(then, now)| then.sha256 != now.sha256);
            names.extend(changed.map(|(then, _)| then.name.as_str()));
        }
        for name in names {
            printer::note(&format!(
                "warning: `{name}` is not the file that `{}` was made with",
                self.path.display()
            ));
        }
    }
}
