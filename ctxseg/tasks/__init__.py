"""Tasks: what a network is trained for and how it is scored.

A task is a module of this package. The network decides the task of a config, see `task_of`. Its members:

    SCORES                                      the scores that tables can show, as in `studies.tables`
    describe(output)                            the output of the network in words, from its shapes
    loss                                        the loss of a training batch, with the arguments and results of `losses.of_batch`
    check(config, class_names)                  UserError for an invalid field that only this task reads
    check_data(config)                          UserError if the data sets of the config are for another task; needs no data
    with_class_weights(config, builder)         the config with numbers in place of class weights that depend on the data
    training_source(config, builder, others)    the training samples; their length is the number of images. `others`: the data sets of
                                                `config.data.mixture`, as `splits.load_mixture` returns them
    training_batches(config, source, names)     an endless iterator of augmented batches, see `pipeline.train_iterator`
    check_evaluation(config, builder)           UserError if `config.eval` cannot be evaluated on the data set
    create_evaluation(config, builder, model)   two functions: (replicated variables, progress=None, complete=False) → an evaluation, which
                                                has `scores`, and if it is complete, all that `write` writes;
                                                (shapes of these variables) → an iterator, each step of which compiles a program of it
    write(config, folder, builder, evaluation, results)
                                                writes the files of an evaluation into the folder of a run; `results` are the entries of
                                                results.json that all tasks share
    logged_pictures(evaluation, builder)        {name: picture, uint8 [h,w,3]} of the samples of an evaluation, for loggers
    prediction_suffixes(probabilities)          ends of the names of the results of `--mode=predict`, see `inference.predict`
    create_prediction(config, folder, checkpoint, probabilities)
                                                a function that makes these results, see `inference.predict.Prediction`
    create_submission(config, folder, checkpoint, name)
                                                the same for `--format`: a function that loads the network, see `inference.submission`
    lines(scores)                               the lines that show the scores; the last one has the main scores
"""

from ctxseg.tasks import instances, semantic


def task_of(config):
    """The task of a config: that of its network."""
    return semantic if config.model.detector.name == "none" else instances
