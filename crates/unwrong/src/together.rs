//! Which pictures go through a UNet together.
//!
//! A small picture leaves a processor idle: its matrices are short, and every weight is read for
//! few rows. Up to 16 pictures of the same shape share a pass, so far as they are no larger than
//! one of 512×512 together; above that there is nothing to win. Results do not depend on it.

use std::sync::Arc;

use crate::denoiser::is_guided;
use crate::error::Result;
use crate::generate::Job;
use crate::memory::step_bytes;
use crate::pipeline::Pipeline;
use crate::plan::Plan;
use crate::request::GenerateRequest;

/// Most pictures of one pass.
const MOST: usize = 16;
/// Most pixels of one pass, unless a single picture has more.
const PIXELS: u64 = 512 * 512;

impl Pipeline {
    /// How many pictures like those of this request are drawn at once: 1 unless they are small.
    ///
    /// Whoever writes pictures as soon as they exist asks for so many at a time.
    pub fn together(&self, request: &GenerateRequest) -> Result<usize> {
        let one = GenerateRequest { count: None, seed: Some(0), ..self.completed(request)? };
        let plans =
            Plan::expand(&one, self.defaults(), self.native_size(), self.refiner.is_some())?;
        Ok(plans.first().map_or(1, |plan| self.at_once(plan)))
    }

    /// As many as there is memory for.
    pub(crate) fn at_once(&self, plan: &Plan) -> usize {
        let pixels = u64::from(plan.size.width) * u64::from(plan.size.height);
        let most = (PIXELS / pixels.max(1)).clamp(1, MOST as u64) as usize;
        if most == 1 {
            return 1;
        }
        let Some(budget) = self.memory() else { return most };
        let refiner = self.refiner.as_ref().map(|refiner| &refiner.unet);
        let fits = |pictures: &usize| {
            let unets = [Some(&self.base.unet), refiner].into_iter().flatten();
            unets.into_iter().all(|unet| step_bytes(unet, plan, *pictures) <= budget)
        };
        (1..=most).rev().find(fits).unwrap_or(1)
    }
}

/// Places of pictures that go together, in the order of the first of each.
pub(crate) fn groups(jobs: &[Job], at_once: impl Fn(&Plan) -> usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        let open = groups
            .iter_mut()
            .find(|(most, group)| group.len() < *most && go_together(&jobs[group[0]], job));
        match open {
            Some((_, group)) => group.push(place),
            None => groups.push((at_once(&job.plan), vec![place])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Whether two pictures take the same steps through the same weights.
fn go_together(one: &Job, other: &Job) -> bool {
    let same = |one: &Plan, other: &Plan| {
        one.size == other.size
            && one.steps == other.steps
            && one.high_noise_fraction.to_bits() == other.high_noise_fraction.to_bits()
            && one.weights == other.weights
            && is_guided(one.guidance_scale) == is_guided(other.guidance_scale)
    };
    Arc::ptr_eq(&one.adapters, &other.adapters) && same(&one.plan, &other.plan)
}
