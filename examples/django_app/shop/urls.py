"""The two addresses of the shop."""

from django.urls import path

from shop import views

urlpatterns = [path("signup", views.sign_up), path("checkout", views.checkout)]
