//! The order of SRV records (RFC 2782).

use super::SrvRecord;

/// By priority, and at random by weight within each: "the server selection mechanism" of RFC 2782.
pub(super) fn by_priority_and_weight(mut records: Vec<SrvRecord>, seed: u64) -> Vec<SrvRecord> {
    // Records of weight zero stand first, which gives them their small chance.
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut random = SplitMix(seed);
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let group = records.partition_point(|record| record.priority == priority);
        let sum: u64 = records[..group].iter().map(|record| u64::from(record.weight)).sum();
        let threshold = random.next() % (sum + 1);
        let mut running = 0;
        let chosen = records[..group].iter().position(|record| {
            running += u64::from(record.weight);
            running >= threshold
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// SplitMix64: good enough to spread load, which is all that is asked of it.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16) -> SrvRecord {
        SrvRecord { priority, weight, port: weight, target: format!("{priority}.{weight}") }
    }

    #[test]
    fn priorities_come_in_order_whatever_the_weights() {
        for seed in 0..50 {
            let records = vec![record(2, 9), record(1, 0), record(2, 0), record(1, 5)];
            let ordered = by_priority_and_weight(records, seed);
            assert!(ordered.iter().map(|record| record.priority).eq([1, 1, 2, 2]), "{ordered:?}");
        }
        assert_eq!(by_priority_and_weight(vec![], 1), []);
    }

    #[test]
    fn weights_are_chances() {
        let first = |seed| by_priority_and_weight(vec![record(1, 30), record(1, 10)], seed)[0].weight;
        let heavy = (0..4000).filter(|seed| first(*seed) == 30).count();
        assert!((2800..3200).contains(&heavy), "{heavy} of 4000 instead of 3000");
    }
}
