//! Many runs of many pairs, several at once, and what they came to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Expectation, Mode, Outcome, Pair, Path, kernel, simulated};

/// Where runs happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instrument {
    /// The simulated network.
    Simulation,
    /// The kernel lab.
    Lab,
}

impl Instrument {
    /// Both, the judge last.
    const ALL: [Self; 2] = [Self::Simulation, Self::Lab];

    /// For the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simulation => "simulation",
            Self::Lab => "lab",
        }
    }

    /// Whether agents of this kind can run there.
    fn has(self, mode: Mode) -> bool {
        self == Self::Lab || mode.is_ours()
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// In these modes.
    pub modes: Vec<Mode>,
    /// So many runs of each on each instrument.
    pub runs: BTreeMap<Instrument, usize>,
    /// Runs at the same time.
    pub jobs: usize,
}

/// One run of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Which of the plan's pairs.
    cell: usize,
    /// Its networks.
    pub pair: Pair,
    /// Where.
    pub instrument: Instrument,
    /// What the agents may do.
    pub mode: Mode,
    /// The number of the run, from 0: a simulation's seed.
    pub run: usize,
}

/// What a plan came to.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// One for each pair, in the order of the plan.
    pub cells: Vec<Cell>,
}

/// What the runs of a pair came to.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The networks.
    pub pair: Pair,
    /// The best path that can exist.
    pub expectation: Expectation,
    tallies: BTreeMap<(Instrument, Mode), Tally>,
}

/// What the runs of a pair in one mode on one instrument came to.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Of each run.
    pub outcomes: Vec<Outcome>,
    /// Why runs came to nothing: the instrument's fault, not the agents'.
    pub broken: Vec<String>,
}

/// Runs a plan; `progress` hears of each run that has ended, and how many are left.
pub fn measure(plan: &Plan, progress: impl Fn(&Job, &Result<Outcome, String>, usize) + Sync) -> Matrix {
    let cells = plan.pairs.iter().map(|pair| Cell::new(*pair)).collect::<Vec<_>>();
    let jobs = jobs(plan);
    let matrix = Mutex::new(Matrix { cells });
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = job.run();
            let left = jobs.len() - done.fetch_add(1, Ordering::Relaxed) - 1;
            progress(job, &outcome, left);
            let mut matrix = matrix.lock().unwrap_or_else(PoisonError::into_inner);
            matrix.cells[job.cell].count(job, outcome);
        }
    };
    thread::scope(|scope| (0..plan.jobs.max(1)).for_each(|_| _ = scope.spawn(work)));
    matrix.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Each pair once before any of them a second time.
fn jobs(plan: &Plan) -> Vec<Job> {
    let most = plan.runs.values().copied().max().unwrap_or(0);
    let mut jobs = Vec::new();
    for run in 0..most {
        for (&instrument, _) in plan.runs.iter().filter(|(_, runs)| run < **runs) {
            for (cell, &pair) in plan.pairs.iter().enumerate() {
                let modes = plan.modes.iter().filter(|mode| instrument.has(**mode));
                jobs.extend(modes.map(|&mode| Job { cell, pair, instrument, mode, run }));
            }
        }
    }
    jobs
}

impl Job {
    fn run(&self) -> Result<Outcome, String> {
        let expectation = Expectation::of(self.pair).in_mode(self.mode);
        match self.instrument {
            Instrument::Lab => {
                kernel::run(self.order(), self.mode, expectation).map_err(|error| error.to_string())
            }
            Instrument::Simulation => Ok(simulated::run(self.pair, self.mode, expectation, self.run as u64)),
        }
    }

    /// Two agents that are not alike take turns at the two ends.
    fn order(&self) -> Pair {
        if self.mode == Mode::Mixed && self.run % 2 == 1 { self.pair.swapped() } else { self.pair }
    }
}

impl Cell {
    fn new(pair: Pair) -> Self {
        Self { pair, expectation: Expectation::of(pair), tallies: BTreeMap::new() }
    }

    fn count(&mut self, job: &Job, outcome: Result<Outcome, String>) {
        let tally = self.tallies.entry((job.instrument, job.mode)).or_default();
        match outcome {
            Ok(outcome) => tally.outcomes.push(outcome),
            Err(why) => tally.broken.push(why),
        }
    }

    /// What the runs came to, if there were any.
    pub fn tally(&self, instrument: Instrument, mode: Mode) -> Option<&Tally> {
        self.tallies.get(&(instrument, mode))
    }

    /// The runs of a mode on the instrument that is the judge, or else on the other.
    pub fn judged(&self, mode: Mode) -> Option<&Tally> {
        self.tally(Instrument::Lab, mode).or_else(|| self.tally(Instrument::Simulation, mode))
    }

    /// Where the requirement is missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let each = self.tallies.iter().flat_map(|(&(instrument, mode), tally)| {
            let missed = tally.missed(self.expectation, mode);
            missed.into_iter().map(move |what| (instrument, mode, what))
        });
        let words = |(instrument, mode, what): (Instrument, Mode, String)| {
            format!("{} ({}), {}, {}: {what}", self.pair, self.expectation, instrument.name(), mode.name())
        };
        each.map(words).chain(self.disagreement()).collect()
    }

    /// Where most runs end otherwise in the simulation than in the lab: then the simulation is wrong.
    fn disagreement(&self) -> Option<String> {
        [Mode::Thirl, Mode::Standard].into_iter().find_map(|mode| {
            let path = |instrument| {
                let tally = self.tally(instrument, mode).filter(|tally| tally.runs() > 0)?;
                Some(tally.path().map_or("nothing", Path::name))
            };
            let (simulated, real) = (path(Instrument::Simulation)?, path(Instrument::Lab)?);
            let mode = mode.name();
            (simulated != real)
                .then(|| format!("{}, {mode}: {simulated} in the simulation, {real} in the lab", self.pair))
        })
    }
}

impl Tally {
    /// How many runs had an outcome.
    pub fn runs(&self) -> usize {
        self.outcomes.len()
    }

    /// In how many data flowed.
    pub fn connected(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.connected()).count()
    }

    /// In how many it did so without a relay in the end.
    pub fn direct(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_direct()).count()
    }

    /// The path that most runs ended with; `None` if most did not connect.
    pub fn path(&self) -> Option<Path> {
        let mut counts = BTreeMap::<_, usize>::new();
        self.outcomes.iter().for_each(|outcome| *counts.entry(outcome.path).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).and_then(|(path, _)| path)
    }

    /// The median of the runs in which data flowed.
    pub fn first_data(&self) -> Option<Duration> {
        median(self.outcomes.iter().filter_map(|outcome| outcome.first_data))
    }

    /// The median of the runs that were direct in the end.
    pub fn to_direct(&self) -> Option<Duration> {
        median(self.outcomes.iter().filter_map(|outcome| outcome.direct))
    }

    /// Datagrams lost in all runs, and sent.
    pub fn lost(&self) -> (u64, u64) {
        self.outcomes.iter().fold((0, 0), |(lost, sent), it| (lost + it.lost, sent + it.sent))
    }

    fn missed(&self, expectation: Expectation, mode: Mode) -> Vec<String> {
        let runs = self.runs();
        let mut missed: Vec<_> = self.broken.iter().map(|why| format!("no outcome: {why}")).collect();
        let required = [
            ("connected", self.connected(), expectation.required_connected(mode)),
            ("direct", self.direct(), expectation.required_direct(mode)),
        ];
        for (what, came, percent) in required {
            if came + allowed_misses(runs, percent) < runs {
                missed.push(format!("{came} of {runs} {what}"));
            }
        }
        let (lost, sent) = self.lost();
        if lost > 0 && self.direct() > 0 && mode.is_ours() {
            missed.push(format!("{lost} of {sent} datagrams lost"));
        }
        missed
    }
}

impl Matrix {
    /// Who ran where, in the order of the columns.
    pub fn columns(&self) -> Vec<(Mode, Instrument)> {
        let ran = |(mode, instrument): &(Mode, Instrument)| {
            self.cells.iter().any(|cell| cell.tally(*instrument, *mode).is_some())
        };
        let all = Mode::ALL.into_iter().flat_map(|mode| Instrument::ALL.map(|instrument| (mode, instrument)));
        all.filter(ran).collect()
    }

    /// Where the requirement is missed, in words: in a cell, or in all cells of a kind together where luck decides, since a few
    /// runs of one cell say little.
    pub fn missed(&self) -> Vec<String> {
        let cells = self.cells.iter().flat_map(Cell::missed);
        cells.chain(self.missed_together()).collect()
    }

    /// The runs of all pairs with one best path.
    pub fn together(&self, expectation: Expectation, instrument: Instrument, mode: Mode) -> Option<Tally> {
        let cells = self.cells.iter().filter(|cell| cell.expectation == expectation);
        let mut tallies = cells.filter_map(|cell| cell.tally(instrument, mode)).cloned();
        let first = tallies.next()?;
        Some(tallies.fold(first, |mut all, tally| {
            all.outcomes.extend(tally.outcomes);
            all.broken.extend(tally.broken);
            all
        }))
    }

    fn missed_together(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let kinds = self.columns().into_iter().flat_map(|column| Expectation::ALL.map(|best| (best, column)));
        for (expectation, (mode, instrument)) in kinds {
            let percent = expectation.required_direct(mode);
            let Some(tally) = self.together(expectation, instrument, mode).filter(|_| is_luck(percent))
            else {
                continue;
            };
            let (direct, runs) = (tally.direct(), tally.runs());
            if direct + allowed_misses(runs, percent) < runs {
                let (instrument, mode) = (instrument.name(), mode.name());
                missed.push(format!(
                    "all of {expectation}, {instrument}, {mode}: {direct} of {runs} direct, not {percent} %"
                ));
            }
        }
        missed
    }
}

/// Whether a percentage leaves room.
fn is_luck(percent: u32) -> bool {
    (1..100).contains(&percent)
}

/// How many runs of a cell may miss what this percentage has to meet: where luck decides, one at least.
fn allowed_misses(runs: usize, percent: u32) -> usize {
    let spare = runs * (100 - percent as usize) / 100;
    if is_luck(percent) { spare.max(1) } else { spare }
}

fn median(times: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(path: Option<Path>, lost: u64) -> Outcome {
        let at = |there: bool, ms| there.then(|| Duration::from_millis(ms));
        let direct = path.is_some_and(Path::is_direct);
        Outcome {
            path,
            first_data: at(path.is_some(), 10),
            direct: at(direct, 20),
            lost,
            sent: 100,
            notes: vec![],
        }
    }

    fn tally(paths: &[Option<Path>]) -> Tally {
        Tally { outcomes: paths.iter().map(|path| outcome(*path, 0)).collect(), broken: vec![] }
    }

    #[test]
    fn what_is_required_is_missed_by_less() {
        let (direct, relayed) = (Some(Path::Direct), Some(Path::Relayed));
        let all = tally(&[direct, direct, direct]);
        let most = tally(&[direct, relayed, direct]);
        let worst = tally(&[relayed, None, relayed]);
        assert_eq!(most.path(), direct);
        assert!(all.missed(Expectation::Punch, Mode::Thirl).is_empty());
        assert_eq!(most.missed(Expectation::Punch, Mode::Thirl), ["2 of 3 direct"]);
        assert!(most.missed(Expectation::Birthday, Mode::Thirl).is_empty(), "one is bad luck");
        assert_eq!(worst.missed(Expectation::Birthday, Mode::Thirl).len(), 2);
        assert_eq!(worst.missed(Expectation::Birthday, Mode::Standard), ["2 of 3 connected"]);
        let losing = Tally { outcomes: vec![outcome(direct, 3)], broken: vec!["no lab".into()] };
        let missed = losing.missed(Expectation::Punch, Mode::Thirl);
        assert_eq!(missed, ["no outcome: no lab", "3 of 100 datagrams lost"]);
    }

    #[test]
    fn bad_luck_in_every_cell_is_no_luck() {
        let pair = Pair::named("eim-apdf,apdm-apdf").unwrap();
        let mut cell = Cell::new(pair);
        cell.tallies
            .insert((Instrument::Lab, Mode::Thirl), tally(&[Some(Path::Direct), Some(Path::Relayed)]));
        assert!(Matrix { cells: vec![cell.clone()] }.missed().is_empty());
        let missed = Matrix { cells: vec![cell.clone(), cell] }.missed();
        assert_eq!(missed, ["all of birthday, lab, thirl: 2 of 4 direct, not 95 %"]);
    }

    #[test]
    fn the_instruments_have_to_agree() {
        let mut cell = Cell::new(Pair::named("same-cgnat").unwrap());
        let (direct, relayed) = (tally(&[Some(Path::Direct)]), tally(&[Some(Path::Relayed)]));
        cell.tallies.insert((Instrument::Simulation, Mode::Thirl), direct.clone());
        cell.tallies.insert((Instrument::Lab, Mode::Thirl), direct);
        assert!(cell.missed().is_empty());
        cell.tallies.insert((Instrument::Lab, Mode::Thirl), relayed);
        assert_eq!(cell.missed(), ["same-cgnat, thirl: direct in the simulation, relayed in the lab"]);
    }

    #[test]
    fn each_pair_runs_before_any_runs_twice() {
        let plan = Plan {
            pairs: Pair::all()[..3].to_vec(),
            modes: vec![Mode::Thirl, Mode::Standard],
            runs: [(Instrument::Lab, 1), (Instrument::Simulation, 2)].into(),
            jobs: 1,
        };
        let jobs = jobs(&plan);
        assert_eq!(jobs.len(), 3 * 2 * 3);
        assert!(jobs.is_sorted_by_key(|job| job.run));
    }
}
