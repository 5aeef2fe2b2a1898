//! From a plan to tasks: operators that can run fused form a chain; chains are joined by channels.
//!
//! Pure and the same in every process, so that workers need only be told who runs which slot.

use std::collections::BTreeSet;

use millrace_sql::plan::{OperatorKind, Plan, Table};

/// How a plan runs: every chain has one task in every slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Operators of each chain, in order.
    pub chains: Vec<Vec<usize>>,
    pub edges: Vec<ChainEdge>,
    /// By chain: the one whose task runs it, too, because both begin with the same rows.
    run_by: Vec<Option<usize>>,
    /// By chain: the one of the same task that gives it its rows, as it gives them to others.
    feeder: Vec<Option<usize>>,
}

/// An exchange between two chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEdge {
    pub from: usize,
    pub to: usize,
    /// Columns that rows are partitioned by.
    pub keys: Vec<usize>,
    /// Number of the channel from slot 0 to slot 0.
    first_channel: u32,
    parallelism: u32,
}

impl ChainEdge {
    /// The number of a channel, unique in the job.
    pub fn channel(&self, from: u32, to: u32) -> u32 {
        self.first_channel + from * self.parallelism + to
    }
}

impl Topology {
    /// Fuses operators along forward edges. Where rows go several ways, each begins a chain.
    pub fn of(plan: &Plan, parallelism: u32) -> Self {
        let mut chain_of = vec![usize::MAX; plan.operators.len()];
        let (mut chains, mut feeder): (Vec<Vec<usize>>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
        for operator in 0..plan.operators.len() {
            let mut inputs = plan.inputs(operator);
            let above = match (inputs.next(), inputs.next()) {
                (Some(edge), None) if edge.hash.is_none() => Some(edge.from as usize),
                _ => None,
            };
            let fused = above.filter(|above| plan.outputs(*above).count() == 1);
            match fused {
                Some(above) => {
                    chain_of[operator] = chain_of[above];
                    chains[chain_of[above]].push(operator);
                }
                None => {
                    chain_of[operator] = chains.len();
                    chains.push(vec![operator]);
                    feeder.push(above.map(|above| chain_of[above]));
                }
            }
        }
        let exchanges = plan.edges.iter().filter(|edge| edge.hash.is_some());
        let edges = exchanges.enumerate().map(|(number, edge)| ChainEdge {
            from: chain_of[edge.from as usize],
            to: chain_of[edge.to as usize],
            keys: edge.hash.iter().flat_map(|hash| &hash.columns).map(|column| *column as usize).collect(),
            first_channel: number as u32 * parallelism * parallelism,
            parallelism,
        });
        Topology { edges: edges.collect(), run_by: vec![None; chains.len()], feeder, chains }
    }

    /// Lets each table be read once for all INSERTs that stand at the same place of it. `places` tells where the source of this id
    /// stands. One that was added later stands elsewhere, and reads for itself until a restart finds it at the place of another.
    pub fn reading_once<P: PartialEq>(mut self, plan: &Plan, places: impl Fn(&str) -> P) -> Self {
        let mut read: Vec<(usize, &Table, BTreeSet<&Vec<String>>, P)> = Vec::new();
        for (chain, operators) in self.chains.iter().enumerate() {
            let operator = &plan.operators[operators[0]];
            let Some(OperatorKind::Source(source)) = &operator.kind else { continue };
            let Some(table) = &source.table else { continue };
            // A record that is left out because of a field would be left out for those, too, who do not read the field.
            let fields = match leaves_records_out(table) {
                true => source.leaves.iter().map(|leaf| &leaf.path).collect(),
                false => BTreeSet::new(),
            };
            let place = places(&operator.id);
            let is_same = |known: &&(usize, &Table, BTreeSet<&Vec<String>>, P)| {
                known.1 == table && known.2 == fields && known.3 == place
            };
            match read.iter().find(is_same) {
                Some((first, ..)) => self.run_by[chain] = Some(*first),
                None => read.push((chain, table, fields, place)),
            }
        }
        self
    }

    /// Chains that have tasks of their own.
    pub fn tasks(&self) -> impl Iterator<Item = usize> + use<'_> {
        (0..self.chains.len()).filter(|chain| self.run_by[*chain].is_none() && self.feeder[*chain].is_none())
    }

    /// Chains of the same task that get their rows from this one.
    pub fn fed_by(&self, chain: usize) -> impl Iterator<Item = usize> + use<'_> {
        (0..self.chains.len()).filter(move |other| self.feeder[*other] == Some(chain))
    }

    /// All chains that run in the task of this one, which has a task.
    pub fn in_task_of(&self, chain: usize) -> Vec<usize> {
        let mut all: Vec<usize> = self.run_with(chain).collect();
        let mut next = 0;
        while let Some(chain) = all.get(next) {
            let fed: Vec<usize> = self.fed_by(*chain).collect();
            all.extend(fed);
            next += 1;
        }
        all
    }

    /// The chain whose task runs this one, too, if it has none of its own.
    pub fn run_by(&self, chain: usize) -> Option<usize> {
        self.run_by[chain]
    }

    /// The chains that a task of this chain runs: itself, and those that begin with the same rows.
    pub fn run_with(&self, chain: usize) -> impl Iterator<Item = usize> + use<'_> {
        let with = move |other: &usize| *other == chain || self.run_by[*other] == Some(chain);
        (0..self.chains.len()).filter(with)
    }

    /// Exchanges into a chain.
    pub fn inputs(&self, chain: usize) -> impl Iterator<Item = &ChainEdge> {
        self.edges.iter().filter(move |edge| edge.to == chain)
    }

    /// Exchanges out of a chain.
    pub fn outputs(&self, chain: usize) -> impl Iterator<Item = &ChainEdge> {
        self.edges.iter().filter(move |edge| edge.from == chain)
    }
}

fn leaves_records_out(table: &Table) -> bool {
    table.options.iter().any(|(option, value)| option.ends_with(".ignore-parse-errors") && value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_cut_at_exchanges_and_channels_do_not_overlap() {
        let sql = "
            CREATE TABLE t (k BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'filesystem', 'path' = 't', 'format' = 'json');
            CREATE TABLE out (k BIGINT, n BIGINT) WITH ('connector' = 'print');
            INSERT INTO out SELECT k, COUNT(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' SECOND))
              GROUP BY k, window_start, window_end;
            INSERT INTO out SELECT k, k AS n FROM t;";
        let plan = millrace_sql::compile(sql).unwrap();

        let topology = Topology::of(&plan, 3);

        assert_eq!(topology.chains, [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7, 8]]);
        assert_eq!(topology.edges.len(), 1);
        let mut channels: Vec<u32> = (0..3)
            .flat_map(|from| (0..3).map(move |to| (from, to)))
            .map(|(f, t)| topology.edges[0].channel(f, t))
            .collect();
        channels.dedup();
        assert_eq!(channels, (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn where_rows_go_several_ways_each_is_a_chain_of_the_same_task() {
        let sql = "
            CREATE TABLE t (k BIGINT, x BIGINT) WITH ('connector' = 'filesystem', 'path' = 't', 'format' = 'json');
            CREATE TABLE a (k BIGINT, n BIGINT) WITH ('connector' = 'print');
            CREATE VIEW counts AS SELECT k, COUNT(DISTINCT x) AS n FROM t GROUP BY k;
            INSERT INTO a SELECT k, n FROM counts;
            INSERT INTO a SELECT n, COUNT(DISTINCT k) FROM counts GROUP BY n;
            INSERT INTO a SELECT k + 1, n FROM counts;";
        let plan = millrace_sql::compile(sql).unwrap();
        let topology = Topology::of(&plan, 2).reading_once(&plan, |_| ());
        let first = |chain: usize| plan.operators[topology.chains[chain][0]].id.as_str();
        let tasks: Vec<(&str, Vec<&str>)> = topology
            .tasks()
            .map(|chain| (first(chain), topology.in_task_of(chain).into_iter().map(first).collect()))
            .collect();

        assert_eq!(
            tasks,
            [
                ("a/t/source", vec!["a/t/source", "a/t/source/2", "a/t/source/3"]),
                ("a/t/group", vec!["a/t/group", "a/a/calc", "a/counts/calc", "a/a/calc/3"]),
                ("a/counts/group", vec!["a/counts/group"]),
            ]
        );
    }

    #[test]
    fn a_table_is_read_once_by_those_who_stand_at_the_same_place() {
        let sql = "
            CREATE TABLE t (a BIGINT, b BIGINT) WITH ('connector' = 'filesystem', 'path' = 't', 'format' = 'json');
            CREATE TABLE other (a BIGINT, b BIGINT) WITH ('connector' = 'filesystem', 'path' = 't', 'format' = 'json');
            CREATE TABLE x (v BIGINT) WITH ('connector' = 'print');
            CREATE TABLE y (v BIGINT) WITH ('connector' = 'print');
            INSERT INTO x SELECT a FROM t;
            INSERT INTO y SELECT b FROM t;
            INSERT INTO y SELECT b FROM other;
            INSERT INTO x SELECT a + b FROM t;";
        let plan = millrace_sql::compile(sql).unwrap();
        let tasks = |place: fn(&str) -> u32| {
            let topology = Topology::of(&plan, 2).reading_once(&plan, place);
            let with = |chain| (chain, topology.run_with(chain).collect::<Vec<_>>());
            topology.tasks().map(with).collect::<Vec<_>>()
        };

        assert_eq!(tasks(|_| 0), [(0, vec![0, 1, 3]), (2, vec![2])]);
        let lenient =
            sql.replacen("'format' = 'json'", "'format' = 'json', 'json.ignore-parse-errors' = 'true'", 1);
        let lenient =
            millrace_sql::compile(&format!("{lenient} INSERT INTO y SELECT a + 1 FROM t;")).unwrap();
        let topology = Topology::of(&lenient, 2).reading_once(&lenient, |_| 0);
        let with: Vec<Vec<usize>> =
            topology.tasks().map(|chain| topology.run_with(chain).collect()).collect();
        assert_eq!(
            with,
            [vec![0, 4], vec![1], vec![2], vec![3]],
            "each sees the records that its own fields let through"
        );
        let added_later = tasks(|id| u32::from(id == "y/t/source"));
        assert_eq!(added_later, [(0, vec![0, 3]), (1, vec![1]), (2, vec![2])]);
    }
}
