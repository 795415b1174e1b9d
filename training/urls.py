"""Addresses of the training pages."""

from django.urls import path

from training.views import (
    checkpoints,
    curves,
    iterations,
    new_run,
    proposals,
    run_samples,
    runs,
)

app_name = "training"
urlpatterns = [
    path("p/<slug:slug>/runs/", runs.runs, name="runs"),
    path("p/<slug:slug>/runs/new/<slug:kind>/", new_run.run_new, name="run-new"),
    path("p/<slug:slug>/runs/compare/", curves.compare, name="runs-compare"),
    path("p/<slug:slug>/runs/<int:pk>/", runs.run, name="run"),
    path("p/<slug:slug>/runs/<int:pk>/live/", runs.live, name="run-live"),
    path("p/<slug:slug>/runs/<int:pk>/series/", curves.series, name="run-series"),
    path(
        "p/<slug:slug>/runs/<int:pk>/samples/",
        run_samples.run_samples,
        name="run-samples",
    ),
    path("p/<slug:slug>/runs/<int:pk>/stop/", runs.stop, name="run-stop"),
    path("p/<slug:slug>/runs/<int:pk>/resume/", runs.resume, name="run-resume"),
    path("p/<slug:slug>/runs/<int:pk>/place/", runs.place, name="run-place"),
    path("p/<slug:slug>/iterations/", iterations.iterations, name="iterations"),
    path(
        "p/<slug:slug>/iterations/new/", iterations.iteration_new, name="iteration-new"
    ),
    path(
        "p/<slug:slug>/iterations/series/", iterations.series, name="iterations-series"
    ),
    path(
        "p/<slug:slug>/iterations/<int:number>/",
        iterations.iteration,
        name="iteration",
    ),
    path(
        "p/<slug:slug>/iterations/<int:number>/live/",
        iterations.live,
        name="iteration-live",
    ),
    path(
        "p/<slug:slug>/iterations/<int:number>/do/",
        iterations.iteration_do,
        name="iteration-do",
    ),
    path(
        "p/<slug:slug>/iterations/<int:number>/recipe/<slug:step>/",
        iterations.recipe_edit,
        name="iteration-recipe",
    ),
    path(
        "p/<slug:slug>/iterations/<int:number>/settings/",
        iterations.iteration_change,
        name="iteration-change",
    ),
    path("p/<slug:slug>/checkpoints/", checkpoints.checkpoints, name="checkpoints"),
    path(
        "p/<slug:slug>/checkpoints/retention/",
        checkpoints.retention,
        name="checkpoints-retention",
    ),
    path(
        "p/<slug:slug>/checkpoints/<int:pk>/", checkpoints.checkpoint, name="checkpoint"
    ),
    path(
        "p/<slug:slug>/checkpoints/<int:pk>/promote/",
        checkpoints.promote_,
        name="checkpoint-promote",
    ),
    path(
        "p/<slug:slug>/checkpoints/<int:pk>/download/",
        checkpoints.download,
        name="checkpoint-download",
    ),
    path(
        "p/<slug:slug>/checkpoints/<int:pk>/export/",
        checkpoints.export,
        name="checkpoint-export",
    ),
    path(
        "p/<slug:slug>/write/<int:pk>/propose/",
        proposals.propose,
        name="draft-propose",
    ),
    path(
        "p/<slug:slug>/proposals/<int:pk>/", proposals.proposal, name="draft-proposal"
    ),
    path(
        "p/<slug:slug>/proposals/<int:pk>/use/",
        proposals.use,
        name="draft-proposal-use",
    ),
    path("p/<slug:slug>/snapshots/<int:pk>/", checkpoints.snapshot, name="snapshot"),
]
