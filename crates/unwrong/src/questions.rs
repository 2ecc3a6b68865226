//! What pictures that are drawn together are told, from step to step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;

use crate::denoiser::{Question, Side};
use crate::encode::{Conditioning, Guide};
use crate::error::Result;
use crate::generate::Job;
use crate::pipeline::{Pipeline, Stage, Told};
use crate::progress::Part;

/// The pictures of a group and what each of them is told.
pub(crate) struct Questions<'a> {
    pipeline: &'a Pipeline,
    stage: &'a Stage,
    part: Part,
    pictures: Vec<Asked>,
    last: RefCell<Option<Last>>,
    /// What making questions took.
    seconds: Cell<f64>,
}

/// What was asked last, and which guide of each picture that is.
type Last = (Vec<usize>, Arc<Vec<Question>>);

/// One picture.
struct Asked {
    told: Told,
    /// One after the other; one at least.
    guides: Arc<Vec<Guide>>,
    /// Positive and negative.
    time_ids: [Vec<f32>; 2],
    is_guided: bool,
}

/// One prompt on its way into a batch.
#[derive(Clone)]
struct Row<'a> {
    picture: usize,
    side: Side,
    conditioning: &'a Conditioning,
    time_ids: &'a [f32],
}

impl<'a> Questions<'a> {
    /// Encodes the prompts of a group of jobs; those that were encoded lately are not again.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        stage: &'a Stage,
        part: Part,
        jobs: &mut [Job],
        group: &[usize],
    ) -> Result<Self> {
        let mut pictures = Vec::with_capacity(group.len());
        for place in group {
            let job = &mut jobs[*place];
            let guides = pipeline.guides(stage, part, job)?;
            let conditions = &job.plan.conditions;
            pictures.push(Asked {
                told: job.told(part),
                is_guided: job.plan.is_guided(guides[0].positive.len()),
                guides,
                time_ids: match part {
                    Part::Base => conditions.base(),
                    Part::Refiner => conditions.refiner(stage.index.requires_aesthetics_score),
                },
            });
        }
        let (last, seconds) = (RefCell::default(), Cell::default());
        Ok(Self { pipeline, stage, part, pictures, last, seconds })
    }

    /// What a UNet is asked at a step; the last ones stay ready.
    pub(crate) fn at(&self, step: usize) -> Result<Arc<Vec<Question>>> {
        let place = |asked: &Asked| {
            let place = asked.guides.partition_point(|guide| guide.until < step);
            place.min(asked.guides.len() - 1)
        };
        let places: Vec<usize> = self.pictures.iter().map(place).collect();
        if let Some((known, questions)) = &*self.last.borrow()
            && *known == places
        {
            return Ok(Arc::clone(questions));
        }
        let key = self.pictures.iter().zip(&places);
        let key = key.map(|(asked, place)| (asked.told.clone(), *place)).collect();
        let questions = self.stage.questions.get_or_make(key, || {
            let started = Instant::now();
            let questions = self.prepare(&places)?;
            self.seconds.set(self.seconds.get() + started.elapsed().as_secs_f64());
            Ok(Arc::new(questions))
        })?;
        *self.last.borrow_mut() = Some((places, Arc::clone(&questions)));
        Ok(questions)
    }

    /// Makes the first step's ready; the seconds that it took.
    pub(crate) fn begin(&self, step: usize) -> Result<f64> {
        self.at(step)?;
        Ok(self.seconds.get())
    }

    /// Prompts of different lengths make tensors of different shapes. Within a question negative
    /// ones come first, as diffusers has it.
    fn prepare(&self, places: &[usize]) -> Result<Vec<Question>> {
        let mut by_length: BTreeMap<usize, [Vec<Row<'_>>; 2]> = BTreeMap::new();
        for (picture, (asked, place)) in self.pictures.iter().zip(places).enumerate() {
            let Guide { positive, negative, .. } = &asked.guides[*place];
            let [positive_ids, negative_ids] = &asked.time_ids;
            let away = asked.is_guided.then_some((Side::Negative, negative, negative_ids));
            let towards = positive.iter().map(|(conditioning, weight)| {
                (Side::Positive(*weight), conditioning, positive_ids)
            });
            for (side, conditioning, time_ids) in away.into_iter().chain(towards) {
                let row = Row { picture, side, conditioning, time_ids };
                let rows = by_length.entry(conditioning.prompt_embeds.dim(1)?).or_default();
                rows[usize::from(side != Side::Negative)].push(row);
            }
        }
        by_length.into_values().map(|rows| self.question(&rows.concat())).collect()
    }

    fn question(&self, rows: &[Row<'_>]) -> Result<Question> {
        let told = &self.pictures[0].told;
        let adapters = match &told.adapters {
            Some(set) => &set.of(self.part).unet,
            None => &self.pipeline.none,
        };
        let cat = |of: fn(&Conditioning) -> &Tensor| {
            Tensor::cat(&rows.iter().map(|row| of(row.conditioning)).collect::<Vec<_>>(), 0)
        };
        let embeds = cat(|told| &told.prompt_embeds)?;
        let pooled = cat(|told| &told.pooled_embeds)?;
        let ids = rows.iter().flat_map(|row| row.time_ids).copied();
        let ids = Tensor::from_iter(ids, embeds.device())?.reshape((rows.len(), ()))?;
        let run = self.pipeline.run(adapters);
        let prepared = self.stage.unet.prepare(&run, &embeds, &pooled, &ids)?;
        Ok(Question { prepared, rows: rows.iter().map(|row| (row.picture, row.side)).collect() })
    }
}
