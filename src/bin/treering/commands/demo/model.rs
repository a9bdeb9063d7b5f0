//! A small real model: a multilayer perceptron on frozen random features, trained with Adam on data that it makes up.
//!
//! It knows no store. It gives out its tensors and its state and takes them back, as any training program can.
//!
//! # What always holds
//! * Training depends on the seed alone: a model given the tensors and state of another goes on bit for bit like it.
//! * The encoder never changes: what a store should save once.

mod data;
mod math;

use serde_json::{Value, json};
use treering::{Error, Result};

use data::{CLASSES, Data, INPUTS};
use math::{Random, dense, grad_inputs, grad_weights, relu, relu_gate, softmax_cross_entropy};

/// Outputs of the encoder, and of each hidden layer.
const FEATURES: usize = 512;

/// Outputs and inputs of the trained layers.
const LAYERS: [(usize, usize); 3] = [(FEATURES, FEATURES), (FEATURES, FEATURES), (CLASSES, FEATURES)];

/// Examples in a training step.
const BATCH: usize = 64;

const LEARNING_RATE: f32 = 1e-3;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// A tensor as it is saved: name, shape, values.
pub(crate) type Tensor<'a> = (String, Vec<u64>, &'a [f32]);

/// The model, its optimizer, its data and where it is in them.
pub(crate) struct Model {
    encoder: [Parameter; 2],
    /// Weight and bias of each layer, in turn.
    layers: Vec<Trained>,
    /// A tensor, as PyTorch has it.
    steps: [f32; 1],
    random: Random,
    data: Data,
    /// The examples as the frozen encoder sees them.
    training: Vec<f32>,
    validation: Vec<f32>,
}

struct Parameter {
    name: String,
    shape: Vec<u64>,
    values: Vec<f32>,
}

struct Trained {
    weights: Parameter,
    /// Adam's means of the gradient and of its square.
    exp_avg: Vec<f32>,
    exp_avg_sq: Vec<f32>,
}

impl Model {
    /// A new one. The same seed gives the same data, weights and order of examples.
    pub(crate) fn new(seed: u64) -> Model {
        let mut random = Random::new(seed);
        let data = Data::new(&mut random);
        let encoder = [
            Parameter::random("model.encoder.0.weight", &[FEATURES, INPUTS], INPUTS, &mut random),
            Parameter::random("model.encoder.1.weight", &[FEATURES, FEATURES], FEATURES, &mut random),
        ];
        let layers = LAYERS.iter().enumerate().flat_map(|(at, &(outputs, inputs))| {
            let weight =
                Parameter::random(&format!("model.layers.{at}.weight"), &[outputs, inputs], inputs, &mut random);
            let bias = Parameter::zero(&format!("model.layers.{at}.bias"), &[outputs]);
            [Trained::new(weight), Trained::new(bias)]
        });
        let layers = layers.collect();
        let mut model =
            Model { encoder, layers, steps: [0.0], random, data, training: Vec::new(), validation: Vec::new() };
        model.encode();
        model
    }

    /// Steps trained so far.
    pub(crate) fn step(&self) -> u64 {
        self.steps[0] as u64
    }

    /// One step on a random batch. Its loss.
    pub(crate) fn train_step(&mut self) -> f32 {
        let mut inputs = Vec::with_capacity(BATCH * FEATURES);
        let mut labels = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let example = self.random.below(self.data.training.labels.len());
            inputs.extend_from_slice(&self.training[example * FEATURES..][..FEATURES]);
            labels.push(self.data.training.labels[example]);
        }
        let (loss, gradients) = self.backward(inputs, &labels);
        self.steps[0] += 1.0;
        let rate = adam_rate(self.steps[0]);
        for (layer, gradient) in self.layers.iter_mut().zip(&gradients) {
            layer.update(gradient, rate);
        }
        loss
    }

    /// Loss and share of right answers on examples that it is never trained on.
    pub(crate) fn validate(&self) -> (f32, f32) {
        let labels = &self.data.validation.labels;
        let logits = self.forward(self.validation.clone()).pop().expect("there are layers");
        let right = logits.chunks_exact(CLASSES).zip(labels).filter(|(row, label)| argmax(row) == **label).count();
        let (loss, _) = softmax_cross_entropy(&logits, labels, CLASSES);
        (loss, right as f32 / labels.len() as f32)
    }

    /// All that a checkpoint has to hold, but for [`Model::state`].
    pub(crate) fn tensors(&self) -> Vec<Tensor<'_>> {
        let mut tensors: Vec<Tensor<'_>> = Vec::new();
        let parameters = self.encoder.iter().chain(self.layers.iter().map(|layer| &layer.weights));
        tensors.extend(parameters.map(|p| (p.name.clone(), p.shape.clone(), p.values.as_slice())));
        for layer in &self.layers {
            let (name, shape) = (layer.weights.name.trim_start_matches("model."), &layer.weights.shape);
            tensors.push((format!("optimizer.exp_avg.{name}"), shape.clone(), &layer.exp_avg));
            tensors.push((format!("optimizer.exp_avg_sq.{name}"), shape.clone(), &layer.exp_avg_sq));
        }
        tensors.push(("optimizer.step".into(), Vec::new(), &self.steps));
        tensors
    }

    /// Takes a tensor back.
    pub(crate) fn load(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let place = self.place(name).ok_or_else(|| Error::invalid(name, "the model has no such tensor"))?;
        if place.len() != values.len() {
            let why = format!("the model has {} values there, not {}", place.len(), values.len());
            return Err(Error::invalid(name, why));
        }
        place.copy_from_slice(values);
        if name.starts_with("model.encoder.") {
            self.encode();
        }
        Ok(())
    }

    /// Where it is in its random numbers, and so in its data.
    pub(crate) fn state(&self) -> Value {
        // Not a JSON number: readers may take those for floats, which would round it.
        json!({ "random": format!("{:016x}", self.random.state()), "step": self.step() })
    }

    /// Takes the state back.
    pub(crate) fn load_state(&mut self, state: &Value) -> Result<()> {
        let random = state.get("random").and_then(Value::as_str).and_then(|text| u64::from_str_radix(text, 16).ok());
        let random = random.ok_or_else(|| Error::invalid("state", "\"random\" is no number in hexadecimal"))?;
        self.random = Random::new(random);
        Ok(())
    }

    fn place(&mut self, name: &str) -> Option<&mut [f32]> {
        if name == "optimizer.step" {
            return Some(&mut self.steps);
        }
        if let Some(encoder) = self.encoder.iter_mut().find(|p| p.name == name) {
            return Some(&mut encoder.values);
        }
        let is = |layer: &Trained, prefix: &str| {
            name.strip_prefix(prefix).is_some_and(|rest| layer.weights.name.strip_prefix("model.") == Some(rest))
        };
        self.layers.iter_mut().find_map(|layer| match () {
            () if is(layer, "model.") => Some(layer.weights.values.as_mut_slice()),
            () if is(layer, "optimizer.exp_avg.") => Some(layer.exp_avg.as_mut_slice()),
            () if is(layer, "optimizer.exp_avg_sq.") => Some(layer.exp_avg_sq.as_mut_slice()),
            () => None,
        })
    }

    /// Runs all examples through the frozen encoder, once instead of in each step.
    fn encode(&mut self) {
        let encode = |inputs: &[f32]| {
            let zeros = [0.0; FEATURES];
            let mut hidden = dense(inputs, &self.encoder[0].values, &zeros);
            relu(&mut hidden);
            let mut features = dense(&hidden, &self.encoder[1].values, &zeros);
            relu(&mut features);
            features
        };
        (self.training, self.validation) = (encode(&self.data.training.inputs), encode(&self.data.validation.inputs));
    }

    /// What goes into each layer, and last what comes out of the last.
    fn forward(&self, inputs: Vec<f32>) -> Vec<Vec<f32>> {
        let mut seen = vec![inputs];
        for (at, layer) in self.layers.chunks_exact(2).enumerate() {
            let mut out = dense(&seen[at], &layer[0].weights.values, &layer[1].weights.values);
            if at + 1 < LAYERS.len() {
                relu(&mut out);
            }
            seen.push(out);
        }
        seen
    }

    /// The loss, and its gradient for each of `layers`.
    fn backward(&self, inputs: Vec<f32>, labels: &[usize]) -> (f32, Vec<Vec<f32>>) {
        let mut seen = self.forward(inputs);
        let logits = seen.pop().expect("there are layers");
        let (loss, mut flow) = softmax_cross_entropy(&logits, labels, CLASSES);
        let mut gradients = Vec::new();
        for (at, (outputs, inputs)) in LAYERS.into_iter().enumerate().rev() {
            let (weights, biases) = grad_weights(&flow, &seen[at], outputs, inputs);
            gradients.extend([biases, weights]);
            if at > 0 {
                flow = grad_inputs(&flow, &self.layers[2 * at].weights.values, outputs, inputs);
                relu_gate(&mut flow, &seen[at]);
            }
        }
        gradients.reverse();
        (loss, gradients)
    }
}

impl Parameter {
    fn random(name: &str, shape: &[usize], inputs: usize, random: &mut Random) -> Parameter {
        let scale = (2.0 / inputs as f32).sqrt();
        let values = (0..shape.iter().product()).map(|_| random.normal() * scale).collect();
        Parameter { values, ..Parameter::zero(name, shape) }
    }

    fn zero(name: &str, shape: &[usize]) -> Parameter {
        let values = vec![0.0; shape.iter().product()];
        Parameter { name: name.into(), shape: shape.iter().map(|&n| n as u64).collect(), values }
    }
}

impl Trained {
    fn new(weights: Parameter) -> Trained {
        let zeros = vec![0.0; weights.values.len()];
        Trained { weights, exp_avg: zeros.clone(), exp_avg_sq: zeros }
    }

    /// Adam.
    fn update(&mut self, gradient: &[f32], rate: f32) {
        let moments = self.exp_avg.iter_mut().zip(&mut self.exp_avg_sq);
        for ((weight, (mean, square)), g) in self.weights.values.iter_mut().zip(moments).zip(gradient) {
            *mean = BETA1 * *mean + (1.0 - BETA1) * g;
            *square = BETA2 * *square + (1.0 - BETA2) * g * g;
            *weight -= rate * *mean / (square.sqrt() + EPSILON);
        }
    }
}

/// The learning rate with both bias corrections in it.
fn adam_rate(step: f32) -> f32 {
    LEARNING_RATE * (1.0 - BETA2.powf(step)).sqrt() / (1.0 - BETA1.powf(step))
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
