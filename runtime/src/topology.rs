//! From a plan to tasks: operators that can run fused form a chain; chains are joined by channels.
//!
//! Pure and the same in every process, so that workers need only be told who runs which slot.

use millrace_sql::plan::Plan;

/// How a plan runs: every chain has one task in every slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Operators of each chain, in order.
    pub chains: Vec<Vec<usize>>,
    pub edges: Vec<ChainEdge>,
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
    /// Fuses operators along forward edges.
    pub fn of(plan: &Plan, parallelism: u32) -> Self {
        let mut chain_of = vec![usize::MAX; plan.operators.len()];
        let mut chains: Vec<Vec<usize>> = Vec::new();
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
        Topology { edges: edges.collect(), chains }
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
}
