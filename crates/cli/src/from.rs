//! `--from PICTURE`: the request that a picture carries, with its files found again.

mod recorded;

use std::path::{Path, PathBuf};

use anyhow::Result;
use unwrong::GenerateRequest;
use unwrong::generate::Generation;
use unwrong::picture::{EmbeddedLora, EmbeddedRequest, EmbeddedWord, ModelId, read_metadata};
use unwrong::request::WRONG;
use unwrong_prompt::{LoraTag, Script};

use crate::args::ModelArgs;
use crate::failure::wrong_request;
use crate::printer;
use crate::session::DEMO;

use recorded::names_one_of;
pub(crate) use recorded::{Named, located};

const LORA: &str = "--lora";
const EMBEDDING: &str = "--embedding";

/// Name and SHA-256.
type File = (String, String);

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
        for lora in request.loras.iter_mut().filter(|lora| lora.path != WRONG) {
            if !is_given(lora, &given.loras) {
                lora.path = self.find("LoRA", LORA, &lora.path)?;
            }
        }
        for own in &mut request.embeddings {
            if !is_given(own, &given.embeddings) {
                own.path = self.find_embedding(&own.path, given.embedding_dir.as_deref())?;
            }
        }
        Ok(())
    }

    /// Finds the folder of the LoRA files that prompts name: here, or beside the picture.
    ///
    /// Names that the picture does not record are left to whoever looks into the folder.
    pub(crate) fn locate_in_prompts(
        &self,
        request: &mut GenerateRequest,
        prompts: &[String],
    ) -> Result<()> {
        let syntax = request.syntax.unwrap_or_default();
        if request.lora_dir.is_some() || !syntax.is_a1111() {
            return Ok(());
        }
        let texts = prompts.iter().chain(&request.prompt_2);
        let tags = texts.flat_map(|text| Script::parse(text, syntax, 1).0.loras);
        let file_of = |tag: LoraTag| {
            let mut files = self.embedded.loras.iter().map(|lora| &*lora.name);
            files.find(|file| Path::new(file).file_stem().is_some_and(|stem| *stem == *tag.name))
        };
        let files: Vec<&str> = tags.filter_map(file_of).collect();
        let beside = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let is_in = |folder: &Path, file: &str| !is_path(file) && folder.join(file).is_file();
        let mut folders = [Path::new("."), beside].into_iter();
        if let Some(folder) = folders.find(|folder| files.iter().all(|file| is_in(folder, file))) {
            if !files.is_empty() {
                request.lora_dir = Some(folder.to_string_lossy().into_owned());
            }
            return Ok(());
        }
        let is_missing = |file: &&&str| !is_in(Path::new("."), file) && !is_in(beside, file);
        let (names, lack) = match files.iter().find(is_missing) {
            Some(file) => (format!("`{file}`"), "which is neither here nor beside it"),
            None => (
                files.iter().map(|file| format!("`{file}`")).collect::<Vec<_>>().join(", "),
                "which are not all in one folder, here or beside it",
            ),
        };
        Err(wrong_request(
            format!(
                "`{}` was made with the LoRA {names} of its prompt, {lack}",
                self.path.display()
            ),
            "say in which folder: `--lora-dir FOLDER`",
        ))
    }

    fn find_embedding(&self, name: &str, folder: Option<&str>) -> Result<String> {
        let in_folder = folder.map(|folder| Path::new(folder).join(name));
        match in_folder.filter(|path| path.is_file()) {
            Some(path) => Ok(path.to_string_lossy().into_owned()),
            None => self.find("textual inversion", EMBEDDING, name),
        }
    }

    fn find(&self, what: &str, flag: &str, name: &str) -> Result<String> {
        if is_path(name) {
            return Err(wrong_request(
                format!(
                    "`{}` names the {what} `{name}`, expected a name without folders",
                    self.path.display()
                ),
                where_it_is(flag, "NAME"),
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
            where_it_is(flag, name),
        ))
    }

    /// Warns where a file of the same name was another one, and of files that others replace.
    pub(crate) fn warn_of_changes(&self, generation: &Generation, given: &ModelArgs) {
        self.warn_of_replaced("LoRA files", &self.embedded.request.loras, &given.loras);
        let embeddings = &self.embedded.request.embeddings;
        self.warn_of_replaced("textual inversions", embeddings, &given.embeddings);
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
        let others = pairs.into_iter().filter(|(then, now)| then.sha256 != now.sha256);
        let mut names: Vec<String> = others.map(|(then, _)| then.name.clone()).collect();
        if given.wrong_lora.is_none() {
            let files = |all: &[EmbeddedLora]| -> Vec<File> {
                all.iter().map(|own| (own.name.clone(), own.sha256.clone())).collect()
            };
            names.extend(changed(&files(&then.loras), &files(&now.loras)));
        }
        let files = |all: &[EmbeddedWord]| -> Vec<File> {
            all.iter().map(|own| (own.name.clone(), own.sha256.clone())).collect()
        };
        names.extend(changed(&files(&then.embeddings), &files(&now.embeddings)));
        for name in names {
            printer::note(&format!(
                "warning: `{name}` is not the file that `{}` was made with",
                self.path.display()
            ));
        }
    }

    fn warn_of_replaced<T: Named>(&self, what: &str, recorded: &[T], given: &[T]) {
        if given.is_empty() || recorded.is_empty() || names_one_of(given, recorded) {
            return;
        }
        let names: Vec<String> = recorded.iter().map(|own| format!("`{}`", own.path())).collect();
        printer::note(&format!(
            "warning: the {what} that `{}` was made with, {}, are replaced by those given",
            self.path.display(),
            names.join(", ")
        ));
    }
}

fn is_given<T: Named>(own: &T, given: &[T]) -> bool {
    given.iter().any(|other| other.path() == own.path())
}

fn is_path(name: &str) -> bool {
    name.contains(['/', '\\'])
}

/// The way out where a file is not found.
fn where_it_is(flag: &str, name: &str) -> String {
    let place = format!("say where it is: `{flag} \"FOLDER/{name}\"`");
    match flag {
        LORA => format!("{place}; its scales and the other LoRA files stay as they are"),
        EMBEDDING => format!(
            "{place}, or the folder: `--embedding-dir FOLDER`; its word and the others stay as \
             they are"
        ),
        _ => place,
    }
}

/// The names of files that were others then. One may have another ending now.
fn changed(then: &[File], now: &[File]) -> Vec<String> {
    let is_other = |(name, sha256): &&File| {
        let stem = Path::new(name).file_stem();
        let mut alike = now.iter().filter(|(name, _)| Path::new(name).file_stem() == stem);
        alike.clone().next().is_some() && !alike.any(|(_, other)| other == sha256)
    };
    then.iter().filter(is_other).map(|(name, _)| name.clone()).collect()
}
