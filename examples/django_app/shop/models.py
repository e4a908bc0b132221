"""What the shop keeps: what it sells, to whom, and the orders."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=40, primary_key=True)
    price = models.DecimalField(max_digits=9, decimal_places=2)
    stock = models.PositiveIntegerField()


class Customer(models.Model):
    email = models.EmailField()
    # Kept from the sign-up on, since no cookie may be at hand at checkout. Empty: no click.
    click_id = models.CharField(max_length=255, blank=True)


class Order(models.Model):
    number = models.PositiveIntegerField(unique=True)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    total = models.DecimalField(max_digits=12, decimal_places=2)
    placed_at = models.DateTimeField(auto_now_add=True)
