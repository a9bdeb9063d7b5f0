use super::*;

/// Tensors that must be the same bits, NaN or not.
fn bits(model: &Model) -> Vec<(String, Vec<u64>, Vec<u32>)> {
    model.tensors().into_iter().map(|(n, s, v)| (n, s, v.iter().map(|x| x.to_bits()).collect())).collect()
}

fn train(model: &mut Model, steps: usize) -> Vec<u32> {
    (0..steps).map(|_| model.train_step().to_bits()).collect()
}

#[test]
fn resuming_is_bit_exact() {
    let mut straight = Model::new(7);
    let losses = train(&mut straight, 10);

    let mut first = Model::new(7);
    train(&mut first, 5);
    let mut resumed = Model::new(7);
    // Somewhere else, so that whatever is not taken over shows.
    train(&mut resumed, 2);
    for (name, _, values) in first.tensors() {
        resumed.load(&name, values).unwrap();
    }
    resumed.load_state(&first.state()).unwrap();
    assert_eq!(resumed.step(), 5);
    assert_eq!(train(&mut resumed, 5), losses[5..]);
    assert_eq!(bits(&resumed), bits(&straight));
    assert_eq!(resumed.state(), straight.state());
    assert_eq!(resumed.validate(), straight.validate());
}

#[test]
fn an_encoder_is_taken_over_too() {
    let other = Model::new(8);
    let mut model = Model::new(7);
    for (name, _, values) in other.tensors() {
        model.load(&name, values).unwrap();
    }
    // The data of seed 7 through the model of seed 8.
    assert_eq!(bits(&model), bits(&other));
    assert_ne!(model.validate(), Model::new(7).validate());
}

#[test]
fn only_the_encoder_stands_still() {
    let (before, mut model) = (Model::new(7), Model::new(7));
    train(&mut model, 2);
    for ((name, _, old), (_, _, new)) in bits(&before).into_iter().zip(bits(&model)) {
        assert_eq!(old == new, name.starts_with("model.encoder."), "{name}");
    }
}

#[test]
fn the_names_and_shapes_are_those_of_a_training_program() {
    let model = Model::new(1);
    let tensors = model.tensors();
    let shape = |name: &str| tensors.iter().find(|t| t.0 == name).map(|t| t.1.clone());
    assert_eq!(shape("model.layers.0.weight"), Some(vec![512, 512]));
    assert_eq!(shape("optimizer.exp_avg.layers.2.bias"), Some(vec![CLASSES as u64]));
    assert_eq!(shape("optimizer.exp_avg_sq.layers.0.weight"), Some(vec![512, 512]));
    assert_eq!(shape("optimizer.step"), Some(vec![]));
    for (name, shape, values) in &tensors {
        assert_eq!(shape.iter().product::<u64>(), values.len() as u64, "{name}");
    }
    let bytes: usize = tensors.iter().map(|t| t.2.len() * 4).sum();
    assert!((5_000_000..12_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut model = Model::new(1);
    assert!(model.load("model.layers.9.weight", &[]).is_err());
    assert!(model.load("layers.0.weight", &[]).is_err());
    assert!(model.load("model.layers.0.bias", &[0.0; 3]).is_err());
    assert!(model.load_state(&json!({})).is_err());
    assert!(model.load_state(&json!({ "random": "xyz" })).is_err());
}

#[test]
fn it_learns() {
    let mut model = Model::new(7);
    let (before, _) = model.validate();
    train(&mut model, 25);
    let (after, right) = model.validate();
    assert!(after < 0.9 * before && right > 1.2 / CLASSES as f32, "{before} {after} {right}");
}
