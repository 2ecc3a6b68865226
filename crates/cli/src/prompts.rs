//! Which prompts are drawn: one or those of a file, with their lists drawn from the seed.

use std::collections::BTreeMap;

use anyhow::Result;
use unwrong::GenerateRequest;
use unwrong::wildcards::WildcardFolder;
use unwrong_prompt::{Dynamic, Wildcards};

use crate::args::DynamicArgs;
use crate::failure::wrong_request;

/// The prompts of a request with their lists, not yet drawn.
pub(crate) struct Templates {
    prompt: Option<Dynamic>,
    negative_prompt: Option<Dynamic>,
    prompt_2: Option<Dynamic>,
    negative_prompt_2: Option<Dynamic>,
}

impl Templates {
    /// Reads the lists of a request's prompts, if that is asked for.
    pub(crate) fn read(request: &GenerateRequest, arguments: &DynamicArgs) -> Result<Self> {
        let wildcards = arguments.wildcards.as_deref();
        let folder = wildcards.map(WildcardFolder::open).transpose()?;
        let none = BTreeMap::new();
        let wildcards: &dyn Wildcards = folder.as_ref().map_or(&none, |folder| folder);
        let read = |text: Option<&String>| {
            let text = text.filter(|_| arguments.is_asked());
            text.map(|text| Dynamic::parse(text, wildcards).map_err(|error| in_our_words(&error)))
                .transpose()
        };
        Ok(Self {
            prompt: read(Some(&request.prompt))?,
            negative_prompt: read(request.negative_prompt.as_ref())?,
            prompt_2: read(request.prompt_2.as_ref())?,
            negative_prompt_2: read(request.negative_prompt_2.as_ref())?,
        })
    }

    /// Reads the lists of each of several prompts that share the rest of a request.
    pub(crate) fn read_each(
        prompts: &[String],
        request: &GenerateRequest,
        arguments: &DynamicArgs,
    ) -> Result<Vec<Self>> {
        let read = |prompt: &String| {
            let request = GenerateRequest { prompt: prompt.clone(), ..request.clone() };
            Self::read(&request, arguments)
        };
        prompts.iter().map(read).collect()
    }

    /// The request with what its seed draws, which is what a picture carries.
    pub(crate) fn draw(&self, request: GenerateRequest) -> Result<GenerateRequest> {
        let seed = request.seed.unwrap_or_default();
        let draw = |template: &Option<Dynamic>, text: Option<String>| match template {
            Some(template) => template.draw(seed).map(Some).map_err(|error| in_our_words(&error)),
            None => Ok(text),
        };
        let drawn = GenerateRequest {
            prompt: draw(&self.prompt, Some(request.prompt.clone()))?.unwrap_or_default(),
            negative_prompt: draw(&self.negative_prompt, request.negative_prompt.clone())?,
            prompt_2: draw(&self.prompt_2, request.prompt_2.clone())?,
            negative_prompt_2: draw(&self.negative_prompt_2, request.negative_prompt_2.clone())?,
            ..request
        };
        drawn.check()?;
        Ok(drawn)
    }
}

fn in_our_words(error: &unwrong_prompt::Error) -> anyhow::Error {
    wrong_request(error.to_string(), error.hint())
}
