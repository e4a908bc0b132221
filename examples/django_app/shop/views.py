"""Sign-up and checkout."""

from __future__ import annotations

from functools import partial

from django import forms
from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from shop.models import Customer, Item, Order
from shop.tracking import click_id_of, track_lead, track_sale


class SignUp(forms.Form):
    email = forms.EmailField(max_length=254)


class Checkout(forms.Form):
    order = forms.IntegerField(min_value=1, max_value=1_000_000_000)
    user = forms.IntegerField(min_value=1, max_value=1_000_000_000)
    item = forms.CharField(max_length=40)
    quantity = forms.IntegerField(min_value=1, max_value=1_000)


class NotInStock(Exception):
    """There are fewer of the item than were ordered."""


@require_POST
def sign_up(request: HttpRequest) -> JsonResponse:
    form = SignUp(request.POST)
    if not form.is_valid():
        return JsonResponse(form.errors, status=400)
    click_id = click_id_of(request.COOKIES.get("cms_id"))
    with transaction.atomic():
        customer = Customer.objects.create(click_id=click_id, **form.cleaned_data)
        transaction.on_commit(partial(track_lead, customer), robust=True)
    return JsonResponse({"user": customer.pk})


@require_POST
def checkout(request: HttpRequest) -> JsonResponse:
    form = Checkout(request.POST)
    if not form.is_valid():
        return JsonResponse(form.errors, status=400)
    wanted = form.cleaned_data
    customer = get_object_or_404(Customer, pk=wanted["user"])
    item = get_object_or_404(Item, pk=wanted["item"])
    try:
        place_order(wanted["order"], customer, item, wanted["quantity"])
    except NotInStock:
        return JsonResponse({"error": "not enough in stock"}, status=409)
    return JsonResponse({"order": wanted["order"]})


@transaction.atomic
def place_order(number: int, customer: Customer, item: Item, quantity: int) -> None:
    """The same number again is the same order: a second click on the button changes nothing."""
    order, is_new = Order.objects.get_or_create(
        number=number, defaults={"customer": customer, "total": item.price * quantity}
    )
    # Forgotten if the order is rolled back. A repetition tracks the very same event again.
    transaction.on_commit(partial(track_sale, order), robust=True)
    if is_new:
        enough = Item.objects.filter(pk=item.pk, stock__gte=quantity)
        if not enough.update(stock=F("stock") - quantity):
            raise NotInStock
