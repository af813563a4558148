//! Figures by name, as Prometheus takes them (OpenMetrics 1.0).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// What a server is at a moment, in families of samples. Labels are of a kind that has few values: never a user's name or
/// an address.
#[derive(Debug, Default)]
pub struct Figures(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Samples,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
enum Samples {
    One(u64),
    /// By the values of a label.
    Each(&'static str, Vec<(String, u64)>),
}

impl Figures {
    /// What only ever grows. The name's end, `_total`, is added.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, Kind::Counter, Samples::One(value));
    }

    /// The same, told apart by the values of a label.
    pub fn counters<V: ToString>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (V, u64)>,
    ) {
        self.add(name, help, Kind::Counter, Samples::each(label, values));
    }

    /// What grows and shrinks.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, Kind::Gauge, Samples::One(value));
    }

    /// The same, told apart by the values of a label.
    pub fn gauges<V: ToString>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (V, u64)>,
    ) {
        self.add(name, help, Kind::Gauge, Samples::each(label, values));
    }

    fn add(&mut self, name: &'static str, help: &'static str, kind: Kind, samples: Samples) {
        self.0.push(Family { name, help, kind, samples });
    }
}

impl Samples {
    fn each<V: ToString>(label: &'static str, values: impl IntoIterator<Item = (V, u64)>) -> Samples {
        Samples::Each(label, values.into_iter().map(|(of, value)| (of.to_string(), value)).collect())
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, samples } in &self.0 {
            // The full stop is the encoder's.
            let mut family = encoder.encode_descriptor(name, help, None, kind.metric_type())?;
            match samples {
                Samples::One(value) => kind.encode(*value, family)?,
                Samples::Each(label, values) => {
                    for (of, value) in values {
                        kind.encode(*value, family.encode_family(&[(*label, of.as_str())])?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Kind::Counter => ConstCounter::<u64>::TYPE,
            Kind::Gauge => ConstGauge::<i64>::TYPE,
        }
    }

    fn encode(self, value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Kind::Counter => ConstCounter::new(value).encode(encoder),
            Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
        }
    }
}
